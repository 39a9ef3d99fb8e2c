//! Who may say what when: the protocol's rules as pure machines.
