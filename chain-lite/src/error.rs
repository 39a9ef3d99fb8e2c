//! Why a message failed: stable numeric codes and words.
