//! The quotient on the GPU.
//!
//! Walk: `snark::prove` hands the rows' values over and gets the coefficients that its own `quotient` computes, by the same six
//! transforms; there the reduction is argued. Nothing comes back but the result.
//! Memory on the GPU: three vectors of the domain's size.

use ark_bls12_381::Fr;
use ark_ff::{FftField, Field};

use super::{Arg, Buffer, Gpu, GpuError, Queue};

/// Domains from here on are worth the way to the GPU.
pub const WORTH_IT: usize = 1 << 14;
/// `ntt.cu`: powers of a root stand in two tables, the lower one of this many bits.
const SPLIT: u32 = 11;

/// Coefficients of `(A·B − C) / (x^n − 1)` in their natural order, all but the last, from the values of A and B in every row.
///
/// # Panics
/// Unless both have the same length, a power of two of at least two.
pub fn quotient(gpu: &Gpu, a: &[Fr], b: &[Fr]) -> Result<Vec<Fr>, GpuError> {
    let n = a.len();
    assert!(n.is_power_of_two() && n > 1 && b.len() == n);
    let queue = gpu.queue()?;
    let domain = Domain::new(&queue, n)?;
    let u = queue.allocate(size_of_val(a))?;
    let [a, b] = [queue.upload(a)?, queue.upload(b)?];
    domain.multiply(&a, &b, &u)?;
    domain.interpolate(&u, &domain.by_n, &domain.ones)?;
    for side in [&a, &b] {
        domain.interpolate(side, &domain.by_n, &domain.coset)?;
        domain.evaluate(side)?;
    }
    domain.multiply(&a, &b, &a)?;
    domain.interpolate(&a, &domain.by_n, &domain.from_coset)?;
    let args = [
        Arg::At(&a),
        Arg::At(&u),
        Arg::At(&domain.vanishing),
        Arg::At(&b),
        Arg::Number(u64::from(n.ilog2())),
    ];
    queue.launch("ntt_quotient", n, &args)?;
    let mut h = vec![Fr::from(0u64); n - 1];
    queue.read(&b, &mut h)?;
    Ok(h)
}

/// A domain's roots, and what scales its coefficients.
struct Domain<'a> {
    queue: &'a Queue<'a>,
    n: usize,
    /// Powers of the root and of its inverse.
    forward: Buffer,
    backward: Buffer,
    /// Powers of one, of the coset's shift and of its inverse.
    ones: Buffer,
    coset: Buffer,
    from_coset: Buffer,
    /// 1/n.
    by_n: Buffer,
    /// 1/(gⁿ − 1).
    vanishing: Buffer,
}

impl<'a> Domain<'a> {
    fn new(queue: &'a Queue<'a>, n: usize) -> Result<Self, GpuError> {
        let inverse = |x: Fr| x.inverse().expect("roots, sizes and shifts are not zero");
        let root = Fr::get_root_of_unity(n as u64).expect("circuits are far below 2^32 rows");
        let shift = Fr::GENERATOR;
        let powers = |root: Fr| -> Result<Buffer, GpuError> {
            let count = (1 << SPLIT) + n.div_ceil(1 << SPLIT);
            let table = queue.allocate(count * size_of::<Fr>())?;
            let root = queue.upload(&[root])?;
            let args = [Arg::At(&root), Arg::At(&table), Arg::Number(count as u64)];
            queue.launch("ntt_powers", count, &args)?;
            Ok(table)
        };
        let one = Fr::from(1u64);
        Ok(Domain {
            queue,
            n,
            forward: powers(root)?,
            backward: powers(inverse(root))?,
            ones: powers(one)?,
            coset: powers(shift)?,
            from_coset: powers(inverse(shift))?,
            by_n: queue.upload(&[inverse(Fr::from(n as u64))])?,
            vanishing: queue.upload(&[inverse(shift.pow([n as u64]) - one)])?,
        })
    }

    fn multiply(&self, a: &Buffer, b: &Buffer, out: &Buffer) -> Result<(), GpuError> {
        let args = [
            Arg::At(a),
            Arg::At(b),
            Arg::At(out),
            Arg::Number(self.n as u64),
        ];
        self.queue.launch("ntt_multiply", self.n, &args)
    }

    /// Coefficients, bit-reversed, each multiplied by a factor and by a power of what the table is of.
    fn interpolate(
        &self,
        values: &Buffer,
        factor: &Buffer,
        powers: &Buffer,
    ) -> Result<(), GpuError> {
        let mut half = self.n / 2;
        while half > 0 {
            self.level("ntt_split", values, half, &self.backward)?;
            half /= 2;
        }
        let args = [
            Arg::At(values),
            Arg::Number(u64::from(self.n.ilog2())),
            Arg::At(factor),
            Arg::At(powers),
        ];
        self.queue.launch("ntt_scale", self.n, &args)
    }

    /// Values from coefficients.
    fn evaluate(&self, coefficients: &Buffer) -> Result<(), GpuError> {
        let mut half = 1;
        while half < self.n {
            self.level("ntt_join", coefficients, half, &self.forward)?;
            half *= 2;
        }
        Ok(())
    }

    fn level(
        &self,
        kernel: &'static str,
        values: &Buffer,
        half: usize,
        roots: &Buffer,
    ) -> Result<(), GpuError> {
        let args = [
            Arg::At(values),
            Arg::Number(self.n as u64),
            Arg::Number(half as u64),
            Arg::At(roots),
        ];
        self.queue.launch(kernel, self.n / 2, &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda;
    use crate::progress::NoProgress;
    use crate::snark::ntt::Transform;
    use crate::snark::prove;
    use crate::snark::testing::rng;
    use ark_ff::UniformRand;

    #[test]
    fn quotients_are_the_cpus() {
        for gpu in cuda::all() {
            for log in [1u32, 2, 5, 11, 12, 13] {
                compare(gpu, log);
            }
        }
        // More than one launch of a thread a value shows on a real one alone.
        cuda::device().into_iter().for_each(|gpu| compare(gpu, 20));
    }

    fn compare(gpu: &Gpu, log: u32) {
        let n = 1 << log;
        let mut rng = rng(u64::from(log));
        let mut side = || -> Vec<Fr> { (0..n).map(|_| Fr::rand(&mut rng)).collect() };
        let edge = vec![-Fr::from(1u64); n];
        for (a, b) in [(side(), side()), (edge.clone(), edge)] {
            let ours = quotient(gpu, &a, &b).expect("there is always this GPU");
            let plain = prove::quotient(&Transform::portable(n), a, b, &NoProgress);
            assert!(ours == plain, "2^{log} on {}", gpu.name());
        }
    }
}
