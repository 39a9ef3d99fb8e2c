//! SubmitPoSt: one partition's proof for this proving period.
