//! How many sectors a file needs, and how long this machine seals them.
//!
//! Walk: before anything else in the demo, so that a file that would take hours is refused with the numbers and not
//! discovered by waiting.

use prover::SectorSize;

use super::DemoError;
use crate::object::cipher;
use crate::object::erasure::Scheme;

/// The demo's patience.
const LIMIT_SECONDS: u64 = 3600;

/// Seconds for one sector from data to activation on one core of a current server processor, PoRep proof included.
/// Measured on two cores of an AMD Zen 5 and doubled; an estimate, not a promise.
fn core_seconds_per_sector(size: SectorSize) -> u64 {
    match size {
        SectorSize::Kib2 | SectorSize::Kib4 | SectorSize::Kib16 | SectorSize::Kib32 => 40,
        SectorSize::Mib8 => 60,
        SectorSize::Mib512 => 900,
        SectorSize::Gib32 => 90_000,
        SectorSize::Gib64 => 180_000,
    }
}

/// Sectors of all providers together for a file of `bytes`: one piece per provider and segment, and one more sector each
/// when the last piece leaves no room for the manifest's.
pub fn sectors(bytes: u64, scheme: Scheme, size: SectorSize) -> u64 {
    let sealed = cipher::sealed_len(bytes);
    let room = size.bytes() / 128 * 127;
    let per_segment = room.saturating_mul(scheme.k() as u64);
    let segments = sealed.div_ceil(per_segment).max(1);
    let last = sealed
        .saturating_sub((segments - 1).saturating_mul(per_segment))
        .div_ceil(scheme.k() as u64);
    let manifest_fits = last <= room / 2;
    (segments + u64::from(!manifest_fits)).saturating_mul(scheme.n() as u64)
}

/// What sealing a file takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Sectors of all providers together.
    pub sectors: u64,
    /// Seconds for them, one after the other.
    pub seconds: u64,
    /// On so many cores.
    pub cores: u64,
}

/// Refuses what would take this machine more than an hour.
pub fn check(
    bytes: u64,
    scheme: Scheme,
    size: SectorSize,
    cores: u64,
) -> Result<Estimate, DemoError> {
    let sectors = sectors(bytes, scheme, size);
    let seconds = sectors.saturating_mul(core_seconds_per_sector(size)) / cores.max(1);
    if seconds > LIMIT_SECONDS {
        return Err(DemoError::TooLong {
            bytes,
            scheme,
            sectors,
            size,
            minutes: seconds.div_ceil(60),
        });
    }
    Ok(Estimate {
        sectors,
        seconds,
        cores,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme() -> Scheme {
        Scheme::new(2, 2).expect("2+2 is a scheme")
    }

    #[test]
    fn the_samples_take_one_sector_per_provider() {
        let small = super::super::TINY_SAMPLE.1.len() as u64;
        let large = super::super::SAMPLE.1.len() as u64;
        assert_eq!(sectors(small, scheme(), SectorSize::Kib2), 4);
        assert_eq!(sectors(large, scheme(), SectorSize::Mib8), 4);
    }

    #[test]
    fn sixteen_mebibytes_are_taken_and_a_gibibyte_is_refused_with_the_count() {
        assert!(check(16 << 20, scheme(), SectorSize::Mib8, 2).is_ok());
        let Err(DemoError::TooLong {
            sectors, minutes, ..
        }) = check(1 << 30, scheme(), SectorSize::Mib8, 2)
        else {
            panic!("a GiB was accepted");
        };
        assert!(sectors >= 4 * 65 && minutes > 60);
    }
}
