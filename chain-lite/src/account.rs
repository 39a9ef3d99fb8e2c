//! Who acts: account addresses, provider ids, deal ids.
