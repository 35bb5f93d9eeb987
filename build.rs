//! Lets the linked programs find libtorch at run time, from any working directory and without `LD_LIBRARY_PATH`.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // torch-sys hands this over (as `links = "tch"`), and only to packages that name it as a dependency of their own.
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is; is it still a dependency?");
    let lib = Path::new(&lib);
    let version_file = lib.with_file_name("build-version");
    let version = fs::read_to_string(&version_file).unwrap_or_default();
    let version = if version.trim().is_empty() { "unknown" } else { version.trim() };
    println!("cargo:rustc-env=AGIQA_LIBTORCH_VERSION={version}");
    if version_file.exists() {
        // Written anew whenever scripts/provision.sh changes what lies there, so that going from the CPU set to the
        // GPU set links again, and nothing else does.
        println!("cargo:rerun-if-changed={}", version_file.display());
    }

    // Seen from target/release/agiqa, and one folder deeper from target/release/{deps,examples}/*, so that a checkout can
    // be moved as a whole. Not with a libtorch of the user's own: an older .libtorch beside it would be found first.
    let ours = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join(".libtorch");
    if lib.starts_with(&ours) && env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        for up in ["../..", "../../.."] {
            println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/{up}/.libtorch/torch/lib");
        }
    }
    // For a binary that is copied away, and for a libtorch that lies elsewhere.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());

    // Nothing in the program names a symbol of libtorch_cuda, which registers its kernels as it is loaded. So a linker
    // that keeps only what is named would drop it, and the program would see no GPU.
    if lib.join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
    }
}
