//! Lets the linked programs find libtorch at run time, from any working directory and without `LD_LIBRARY_PATH`: the
//! program itself, and the tests of each crate with libtorch, whose manifest names this script.

use std::{env, fs, path::Path};

/// Prints what cargo and the linker need. The build script of `agiqa-nets` calls it, too.
pub fn main() {
    // Something has to be named, or every file of the package would count. The script itself counts anyway.
    println!("cargo:rerun-if-env-changed=LIBTORCH");
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
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let is_ours = Path::new(&here).ancestors().any(|folder| lib.starts_with(folder.join(".libtorch")));
    if is_ours && env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
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
