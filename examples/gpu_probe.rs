//! Checks networks of invented weights on a device, for `scripts/gpu_check.sh`:
//!
//! ```sh
//! gpu_probe check [cuda|cpu]                      # tiny networks against the CPU in f32; one line per check
//! gpu_probe compare STORE STORE TOLERANCE [NAME]  # features of two stores, whatever their fingerprints
//! gpu_probe pictures FROM TO N                    # N pictures of different contents, made of those in FROM
//! gpu_probe products                              # TFLOP/s of plain products, the ceiling
//! ```

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::device::{self, Fetch, forbid_tf32, rounds_inputs};
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::maniqa::{BackboneConfig, Maniqa, ManiqaConfig, Mode};
use agiqa_nets::mplug_owl2::{self, AbstractorConfig, Config, DecoderConfig, MplugOwl2, PromptIds, VisionConfig};
use agiqa_nets::vit::{Tap, Vit};
use agiqa_store::identity::ImageId;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::features::FeatureSet;
use agiqa_synth::{Float, Invented};
use tch::{Device, Kind, Tensor};

type Failure = Box<dyn Error>;

/// Number of images of a batch.
const B: i64 = 5;

/// Greatest error in f32, and in f16, relative to the largest value.
const TOLERANCES: [(Kind, f64); 2] = [(Kind::Float, 2e-5), (Kind::Half, 2e-2)];

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] | ["check", "cuda"] => check(Device::Cuda(0)),
        ["check", "cpu"] => check(Device::Cpu),
        ["compare", one, other, tolerance] => compare(one, other, tolerance.parse()?, None),
        ["compare", one, other, tolerance, name] => compare(one, other, tolerance.parse()?, Some(name)),
        ["pictures", from, to, n] => pictures(Path::new(from), Path::new(to), n.parse()?),
        ["products"] => products(Device::Cuda(0)),
        _ => {
            Err("usage: gpu_probe check [cuda|cpu] | compare A B TOLERANCE [NAME] | pictures FROM TO N | products"
                .into())
        }
    }
}

fn invented(name: &str, shape: &[i64]) -> Tensor {
    Tensor::from_slice(&agiqa_synth::values(name, shape, 20)).view(shape)
}

/// MANIQA as small as it may be, with windows that shift.
fn tiny_maniqa() -> ManiqaConfig {
    let vit = BackboneConfig { img_size: 64, embed_dim: 32, num_heads: 4, ..ManiqaConfig::vit_b8().vit };
    ManiqaConfig { vit, embed_dim: 32, dim_mlp: 48, ..ManiqaConfig::vit_b8() }
}

/// The vectors of a batch of pixels, `(b, d)`, by a network on a device.
type Vectors = Box<dyn Fn(&Tensor) -> Tensor>;

/// A network in this kind on this device.
type Build<'a> = &'a dyn Fn(Device, Kind) -> Result<Vectors, Failure>;

fn maniqa(device: Device, kind: Kind) -> Result<Vectors, Failure> {
    let config = tiny_maniqa();
    let tensors: NamedTensors =
        config.parameters().into_iter().map(|(name, shape)| (name.clone(), invented(&name, &shape))).collect();
    let network = Maniqa::new(&config, &tensors, device, kind)?;
    Ok(Box::new(move |pixels| network.forward(pixels, Mode::Evaluate).f_1))
}

fn vit(device: Device, kind: Kind) -> Result<Vectors, Failure> {
    let config = tiny_maniqa();
    let of_vit =
        |(name, shape): (String, Vec<i64>)| Some((name.strip_prefix("vit.")?.to_owned(), invented(&name, &shape)));
    let tensors: NamedTensors = config.parameters().into_iter().filter_map(of_vit).collect();
    let network = Vit::for_features(&config.vit_config(), tensors, device, kind)?;
    let last = network.config().n_blocks - 1;
    Ok(Box::new(move |pixels| {
        let mut vectors = Tensor::new();
        network.forward_taps(pixels, &[Tap::Block(last)], |_, tokens| vectors = tokens.flatten(1, -1));
        vectors
    }))
}

/// mPLUG-Owl2 as small as it may be; its checkpoint is written into `folder`.
fn owl2(folder: &Path, device: Device, kind: Kind) -> Result<Vectors, Failure> {
    let config = Config {
        vision: VisionConfig {
            image_px: 64,
            patch_px: 16,
            dim: 32,
            mlp_dim: 64,
            n_layers: 2,
            n_heads: 4,
            layer_norm_eps: 1e-6,
        },
        abstractor: AbstractorConfig {
            dim: 32,
            mlp_dim: 48,
            n_layers: 2,
            n_heads: 4,
            n_queries: 16,
            layer_norm_eps: 1e-6,
        },
        decoder: DecoderConfig {
            vocab_size: 40,
            dim: 64,
            mlp_dim: 96,
            n_layers: 3,
            n_heads: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
        },
    };
    if !folder.join("model.safetensors.index.json").exists() {
        Invented { dtype: Float::F32, ..Invented::default() }.write(mplug_owl2::tensors(&config), folder)?;
    }
    let prompts = [[1, 5, 9, 13], [1, 6, 10, 14]].map(|before| PromptIds { before: before.into(), after: vec![3, 4] });
    let network = MplugOwl2::new(&Checkpoint::open(folder)?, &config, &prompts, device, kind)?;
    Ok(Box::new(move |pixels| Tensor::cat(&network.embed(pixels), 1)))
}

/// Runs all checks on `device`, one line each.
fn check(device: Device) -> Result<(), Failure> {
    let _no_grad = tch::no_grad_guard();
    let mut n_failed = 0;
    let mut say = |words: String, is_right: bool| {
        println!("{:<7} {words}", if is_right { "ok" } else { "FAILED" });
        n_failed += usize::from(!is_right);
    };
    forbid_tf32()?;
    say("f32 products and convolutions round no input to TF32".to_owned(), !rounds_inputs(device, Kind::Float)?);
    let folder = std::env::temp_dir().join(format!("gpu-probe-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let of_owl2 = |device, kind| owl2(&folder, device, kind);
    let networks: [(&str, Build<'_>); 3] = [("vit", &vit), ("maniqa", &maniqa), ("mplug-owl2", &of_owl2)];
    for (name, build) in networks {
        let pixels = invented("pixels", &[B, 3, 64, 64]);
        let expected = build(Device::Cpu, Kind::Float)?(&pixels);
        for (kind, tolerance) in TOLERANCES {
            // A CPU emulates half precision.
            let kind = if device == Device::Cpu { Kind::Float } else { kind };
            let network = build(device, kind)?;
            let on_device = device::sent(&pixels, device)?;
            let found = network(&on_device);
            let error = error(&found, &expected)?;
            say(
                format!("{name}, {kind:?}: error {error:.1e} of the maximum, at most {tolerance:.0e}"),
                error <= tolerance,
            );
            // The first image among others, in another place and before padding.
            let turned = network(&on_device.roll([2], [0])).roll([-2], [0]);
            let padded =
                Tensor::cat(&[on_device.narrow(0, 0, 1), Tensor::zeros_like(&on_device).narrow(0, 1, B - 1)], 0);
            let alone = network(&padded).narrow(0, 0, 1);
            let same = bits(&turned)? == bits(&found)? && bits(&alone)? == bits(&found.narrow(0, 0, 1))?;
            say(format!("{name}, {kind:?}: equal bits in every composition of a batch"), same);
        }
    }
    std::fs::remove_dir_all(&folder)?;
    if let Some(memory) = device::memory(device) {
        let n = i64::try_from(2 * (memory.free + memory.allocated))?;
        let failed = Tensor::f_zeros([n], (Kind::Uint8, device)).err().map(|error| error.to_string());
        let words = failed.unwrap_or_default();
        say("an allocation beyond the memory is an error that says so".to_owned(), words.contains("out of memory"));
    }
    if n_failed == 0 { Ok(()) } else { Err(format!("{n_failed} checks failed").into()) }
}

fn bits(values: &Tensor) -> Result<Vec<u32>, Failure> {
    Ok(Fetch::of(values)?.wait()?.into_iter().map(f32::to_bits).collect())
}

fn error(found: &Tensor, expected: &Tensor) -> Result<f64, Failure> {
    Ok(relative_error(&Fetch::of(found)?.wait()?, &Fetch::of(expected)?.wait()?))
}

/// Greatest difference relative to the greatest expected value; infinite if a value is no number.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let largest = expected.iter().fold(0.0, |largest: f64, value| largest.max(f64::from(value.abs())));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |worst: f64, error| if error.is_nan() { f64::INFINITY } else { worst.max(error) });
    worst / largest.max(f64::MIN_POSITIVE)
}

fn compare(one: &str, other: &str, tolerance: f64, name: Option<&str>) -> Result<(), Failure> {
    let [one, other] = [Store::open(one, OpenMode::Existing)?, Store::open(other, OpenMode::Existing)?];
    let others = FeatureSet::list(&other)?;
    let is_wanted = |set: &FeatureSet| name.is_none_or(|name| set.extractor.to_string() == name);
    let mut n_compared = 0;
    for set in FeatureSet::list(&one)?.into_iter().filter(is_wanted) {
        let is_twin = |twin: &&FeatureSet| (&twin.extractor, twin.kind) == (&set.extractor, set.kind);
        let twin = others.iter().find(is_twin).ok_or_else(|| format!("{} is in one store only", set.prefix()))?;
        let mut ids: Vec<ImageId> = set.done(&one)?.into_iter().collect();
        ids.sort();
        let [a, b] = [set.read(&one, &ids)?, twin.read(&other, &ids)?];
        if b.rows.iter().any(Option::is_none) {
            return Err(format!("{}: images are missing", twin.prefix()).into());
        }
        for (i, column) in set.columns.iter().enumerate() {
            let rows = |found: &agiqa_store::tables::features::FoundFeatures| -> Vec<f32> {
                let of_row = |row: &usize| found.matrices[i][row * column.dim..][..column.dim].to_vec();
                found.rows.iter().flatten().flat_map(of_row).collect()
            };
            let error = relative_error(&rows(&b), &rows(&a));
            println!("{} {}: {} images, error {error:.1e}", set.extractor, column.name, ids.len());
            if error > tolerance {
                return Err(
                    format!("{} {}: error {error:.1e} is over {tolerance:.0e}", set.extractor, column.name).into()
                );
            }
        }
        n_compared += 1;
    }
    if n_compared > 0 { Ok(()) } else { Err("there is nothing to compare".into()) }
}

/// Decoders ignore what follows a picture in its file, so a number there makes another content of the same picture.
fn pictures(from: &Path, to: &Path, n: usize) -> Result<(), Failure> {
    let is_picture = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "jpg" || end == "png");
    let entries = std::fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(is_picture).collect();
    files.sort();
    for (i, file) in (0..n).zip(files.iter().cycle()) {
        let mut bytes = std::fs::read(file)?;
        bytes.extend((i as u64).to_le_bytes());
        let end = file.extension().unwrap_or_default().to_string_lossy();
        std::fs::write(to.join(format!("{i:05}.{end}")), bytes)?;
    }
    if files.is_empty() { Err(format!("no .jpg or .png in {}", from.display()).into()) } else { Ok(()) }
}

fn products(device: Device) -> Result<(), Failure> {
    forbid_tf32()?;
    let n = 8192;
    for kind in [Kind::Half, Kind::BFloat16, Kind::Float] {
        let [a, b] = [(); 2].map(|()| Tensor::randn([n, n], (Kind::Float, device)).to_kind(kind));
        let run = || a.matmul(&b).narrow(0, 0, 1).narrow(1, 0, 1).double_value(&[]);
        let _ = run();
        let start = Instant::now();
        for _ in 0..4 {
            let _ = a.matmul(&b);
        }
        let _ = run();
        let rate = 5.0 * 2.0 * (n as f64).powi(3) / start.elapsed().as_secs_f64() / 1e12;
        println!("products of {kind:?}, 8192³: {rate:.0} TFLOP/s");
    }
    Ok(())
}
