use prover::porep::{graph::*, label::*};
use prover::*;
use std::time::Instant;
fn main() {
    let g = Graph::new(
        SectorSize::Mib8,
        &RegisteredSeal::v1_1(SectorSize::Mib8).porep_id(),
        ApiVersion::V1_1,
    );
    for _ in 0..3 {
        let t = Instant::now();
        let mut rows = vec![[0; 14]; 1 << 16];
        g.fill(0, &mut rows);
        println!(
            "parents 1 thread {:.0} ns/node",
            t.elapsed().as_secs_f64() / 65536.0 * 1e9
        );
        let t = Instant::now();
        let mut s = 0u64;
        for v in 0..65536 {
            for p in g.base_parents(v) {
                s += p as u64;
            }
        }
        println!(
            "base {:.0} ns/node {s}",
            t.elapsed().as_secs_f64() / 65536.0 * 1e9
        );
        let t = Instant::now();
        let tab = ParentTable::new(&g);
        println!("table {:?}", t.elapsed());
        let mut a = vec![[0u8; 32]; 1 << 18];
        let mut b = a.clone();
        let t = Instant::now();
        fill_layer(
            1,
            LayerParents::Table(&tab),
            None,
            &ReplicaId([1; 32]),
            &mut a,
            &NoProgress,
        );
        println!("layer1 {:?}", t.elapsed());
        let t = Instant::now();
        fill_layer(
            2,
            LayerParents::Table(&tab),
            Some(&a),
            &ReplicaId([1; 32]),
            &mut b,
            &NoProgress,
        );
        println!("layer2 {:?}", t.elapsed());
        let mut n = vec![[7u8; 32]; 1 << 18];
        let t = Instant::now();
        hash::sha256::root_in_place(&mut n);
        println!("treeD 8MiB {:?}", t.elapsed());
        let data = vec![5u8; 100 << 20];
        let t = Instant::now();
        let c = piece::commp::commp_of(&data);
        println!("commp 100MiB {:?} {c:?}", t.elapsed());
        let t = Instant::now();
        let p = piece::fr32::pad(&data);
        println!("fr32 100MiB {:?} {}", t.elapsed(), p.len());
        let t = Instant::now();
        let p = piece::fr32::unpad(&p).unwrap();
        println!("unpad {:?} {}", t.elapsed(), p.len());
    }
}
