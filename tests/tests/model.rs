//! Volumes against a byte array: random operations from seeds (`model::run`). A seed that ever failed stays in the list.

use fusevol_tests::model::run::World;
use fusevol_tests::model::run_local;

/// SEMANTICS: "What was written is read back, from the live volume and from every snapshot, until it is overwritten."
#[test]
fn random_operations_equal_the_byte_array() {
    for seed in 1..=24 {
        eprintln!("seed {seed}");
        run_local(async { World::new(seed).await.run(250).await });
    }
}
