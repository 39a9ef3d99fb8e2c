//! The scheduler: which provider gets which unit when. Pure.
