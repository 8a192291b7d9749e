//! The tunnel's own tests, on a kernel that has WireGuard: once with the kernel's, once with the agent's.

use anyhow::{Result, ensure};
use kube_pet_lab::builds;

use crate::bed::on_vm;

const PROGRAM: &str = "/usr/local/bin/tunnel-tests";

async fn with_mode(machine: &str, mode: &str) -> Result<()> {
    // A test of it, by which its program is told from others of the same name.
    let program = builds::test_program("netns", "keys::netns_a_key_is_exchanged_under_a_connection").await?;
    on_vm(
        machine,
        |options| options,
        async |bed| {
            bed.vm.install(&program, PROGRAM).await?;
            // The kernel loads its module when the first link is made.
            let loaded = bed.vm.shell("lsmod | grep -c ^wireguard; true").await?;
            ensure!(loaded.trim() == "0", "{loaded}");
            let said =
                bed.vm.shell(&format!("KUBE_PET_TUNNEL_MODE={mode} RUST_TEST_THREADS=1 RUST_BACKTRACE=1 {PROGRAM} 2>&1; echo $?")).await?;
            ensure!(said.trim_end().ends_with("\n0") && said.contains("0 failed") && !said.contains(" 0 passed"), "{said}");
            let loaded = bed.vm.shell("lsmod | grep -c ^wireguard; true").await?;
            ensure!((loaded.trim() != "0") == (mode == "kernel"), "{loaded}");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn vm_the_tunnel_by_the_kernels_wireguard() -> Result<()> {
    with_mode("wgkernel", "kernel").await
}

#[tokio::test]
async fn vm_the_tunnel_by_the_agents_own_wireguard() -> Result<()> {
    with_mode("wguser", "userspace").await
}
