//! Set-up: what `scripts/provision.sh` does without a network, and that the program finds libtorch.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A checkout that has nothing but the scripts, and what a command in it printed.
struct Checkout(tempfile::TempDir);

impl Checkout {
    fn new() -> Self {
        let checkout = Self(tempfile::tempdir().expect("a temporary folder can be made"));
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        for entry in std::fs::read_dir(scripts).expect("the scripts can be listed") {
            let path = entry.expect("the scripts can be listed").path();
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            checkout.write(&format!("scripts/{name}"), std::fs::read(&path).expect("a script can be read"));
        }
        checkout.free_disk(20_000);
        checkout
    }

    /// Sets the megabytes of free disk that the script finds, whatever the disk of this machine has.
    fn free_disk(&self, megabytes: u64) {
        let df = format!(
            "#!/bin/sh\necho 'Filesystem 1M-blocks Used Available Use% Mounted'\necho '/dev/x 1 1 {megabytes} 1% /'\n"
        );
        let path = self.write("bin/df", df);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a file can be made executable");
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("inside the checkout")).expect("folders can be made");
        std::fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// Runs the script where pip may not use any index; returns whether it succeeded, and what it said.
    #[track_caller]
    fn provision(&self, variables: &[(&str, &Path)]) -> (bool, String) {
        let mut command = Command::new("sh");
        command.arg(self.0.path().join("scripts/provision.sh")).current_dir("/").env("PIP_NO_INDEX", "1");
        for inherited in ["LIBTORCH", "CUDA", "PIP_FIND_LINKS", "KEEP_WHEELS"] {
            command.env_remove(inherited);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.0.path().join("bin").display()));
        let output = command.envs(variables.iter().copied()).output().expect("sh can be started");
        assert!(output.stdout.is_empty(), "stdout is for data, and there is none");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn the_program_finds_libtorch_from_any_folder() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agiqa"));
    command.arg("--version").current_dir("/").env_remove("LD_LIBRARY_PATH").env_remove("LIBTORCH");
    let output = command.output().expect("agiqa can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_libtorch_of_ones_own_has_to_be_of_the_version_that_is_bound() {
    let checkout = Checkout::new();
    checkout.write("own/lib/libtorch_cpu.so", "");
    let own = checkout.0.path().join("own");

    let (done, said) = checkout.provision(&[("LIBTORCH", &checkout.0.path().join("elsewhere"))]);
    assert!(!done && said.contains("has no lib/libtorch_cpu.so"), "{said}");
    checkout.write("own/build-version", "2.4.0+cpu\n");
    let (done, said) = checkout.provision(&[("LIBTORCH", &own)]);
    assert!(!done && said.contains("is version 2.4.0+cpu, this build needs 2.13.0"), "{said}");
    checkout.write("own/build-version", "2.13.0+cpu\n");
    let (done, said) = checkout.provision(&[("LIBTORCH", &own)]);
    assert!(done && said.contains("using LIBTORCH="), "{said}");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod where_wheels_are_pinned {
    use super::Checkout;

    #[test]
    fn without_a_network_provisioning_says_how_much_it_wanted_and_what_to_bring() {
        let checkout = Checkout::new();
        let (done, said) = checkout.provision(&[]);
        assert!(!done);
        let wheels = checkout.0.path().join(".libtorch/whl").display().to_string();
        for expected in ["539 MB", "scripts/libtorch-cpu.txt", "run this again", "set LIBTORCH", &wheels] {
            assert!(said.contains(expected), "lacks {expected:?}:\n{said}");
        }
    }

    #[test]
    fn a_disk_too_full_to_unpack_on_is_refused_before_anything_is_fetched() {
        let checkout = Checkout::new();
        checkout.free_disk(6_298);
        let (done, said) = checkout.provision(&[("CUDA", "1".as_ref())]);
        assert!(!done && said.contains("the cuda set (2.5 GB to download) needs 10000 MB of free disk"), "{said}");
        assert!(said.contains("which has 6298 MB") && !said.contains("downloading"), "{said}");
    }

    #[test]
    fn a_wheel_of_another_hash_is_refused() {
        let checkout = Checkout::new();
        let wheel = "torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl";
        // Where wheels that were brought by hand lie, and where a mirror offers it.
        checkout.write(&format!(".libtorch/whl/{wheel}"), "not what was pinned");
        checkout.write(&format!("mirror/{wheel}"), "nor this");
        let (done, said) = checkout.provision(&[]);
        assert!(!done && said.contains("No matching distribution found for torch==2.13.0"), "{said}");
        let (done, said) = checkout.provision(&[("PIP_FIND_LINKS", &checkout.0.path().join("mirror"))]);
        assert!(!done && said.contains("DO NOT MATCH THE HASHES"), "{said}");
        assert!(!checkout.0.path().join(".libtorch/torch").exists());
    }

    #[test]
    fn what_is_in_place_is_not_fetched_again_unless_the_gpu_set_is_asked_for() {
        let checkout = Checkout::new();
        checkout.write(".libtorch/torch/lib/libtorch_cpu.so", "");
        checkout.write(".libtorch/stamp", "2.13.0 cpu 1\n");
        let (done, said) = checkout.provision(&[]);
        assert!(done && said.contains("libtorch is in place"), "{said}");
        let (done, said) = checkout.provision(&[("CUDA", "1".as_ref())]);
        assert!(!done && said.contains("2.5 GB"), "{said}");
        let (done, said) = checkout.provision(&[("CUDA", "yes".as_ref())]);
        assert!(!done && said.contains("CUDA=yes: expected 1"), "{said}");
    }
}
