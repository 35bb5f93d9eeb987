//! Compiles what tch does not bind of libtorch (`src/device/shim.cpp`), and lets the tests find libtorch as the
//! program does.

use std::{env, path::Path};

#[path = "../../build.rs"]
mod libtorch;

fn main() {
    libtorch::main();
    println!("cargo:rerun-if-changed=src/device/shim.cpp");
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is");
    let include = Path::new(&lib).with_file_name("include");
    // As torch-sys compiles its own bindings.
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .include(include)
        .flag("-std=c++17")
        .flag(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"))
        // libtorch was compiled with it, and some of its types have further fields without it.
        .define("NDEBUG", None)
        .file("src/device/shim.cpp")
        .compile("agiqa_device");
}
