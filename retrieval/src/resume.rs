//! What a crash does not lose: a bitmap of verified groups beside a partial file.
