//! ResNet-50, VGG-16 and VGG-19 against torchvision's.

use agiqa_synth::shared;
use tch::{Device, Kind};

use super::{Watched, compare_whole, json, normalised, tensors, weights_of};
use crate::conv::halve;
use crate::layers::{Linear, TensorScope};
use crate::resnet::{ResNet, ResNetSizes, Style};
use crate::vgg::{VGG16, Vgg};

const TOLERANCE: f64 = 1e-4;

/// Convolutions of each stage of the whole VGG-19.
const VGG19: &[usize] = &[2, 2, 4, 4, 4];

#[test]
fn resnet_50_agrees_with_torchvisions() {
    let Some(folder) = shared("parity/resnet_vgg") else { return };
    let (config, expected) = (json(&folder.join("expected.json")), tensors(&folder.join("expected.safetensors")));
    let mut config_of_net = config["networks"]["resnet50"].clone();
    config_of_net["seed"] = config["seed"].clone();
    let weights = weights_of(&config_of_net);
    let _no_grad = tch::no_grad_guard();
    let p = TensorScope::new(&weights, Device::Cpu, Kind::Float);
    let sizes = ResNetSizes { width: 64, blocks: vec![3, 4, 6, 3], style: Style::Torchvision };
    let trunk = ResNet::new(&p, &sizes).expect("the tensors fit");
    let mut watched = Watched::default();
    let xs = trunk.forward(&normalised(&expected["input.u8"]), &mut watched.watch());
    for stage in ["stem", "layer1.0", "layer1", "layer2.0", "layer2", "layer3", "layer4.0", "layer4"] {
        watched.compare_samples(stage, &expected, &format!("resnet50.{stage}"), TOLERANCE);
    }
    let pool = xs.mean_dim([2_i64, 3].as_slice(), false, Kind::Float);
    let logits = Linear::new(&p.sub("fc"), sizes.channels(4), 1000).expect("the tensors fit").forward(&pool);
    for (name, found) in [("pool", pool), ("logits", logits)] {
        compare_whole(name, &found, &expected[&format!("resnet50.{name}")], TOLERANCE);
    }
}

#[test]
fn vgg_16_and_19_agree_with_torchvisions() {
    let Some(folder) = shared("parity/resnet_vgg") else { return };
    let (config, expected) = (json(&folder.join("expected.json")), tensors(&folder.join("expected.safetensors")));
    let pixels = normalised(&expected["input.u8"]);
    let _no_grad = tch::no_grad_guard();
    for (name, stages) in [("vgg16", VGG16), ("vgg19", VGG19)] {
        let mut config_of_net = config["networks"][name].clone();
        config_of_net["seed"] = config["seed"].clone();
        let weights = weights_of(&config_of_net);
        let p = TensorScope::new(&weights, Device::Cpu, Kind::Float);
        let trunk = Vgg::new(&p.sub("features"), stages, &[64, 128, 256, 512, 512]).expect("the tensors fit");
        let mut watched = Watched::default();
        let xs = trunk.forward(&pixels, &mut watched.watch());
        watched.watch()("pool5", &halve(&xs));
        let of_net = config["networks"][name]["stages"].as_object().expect("stages");
        for stage in of_net.keys().filter(|stage| !stage.starts_with("conv")) {
            watched.compare_samples(stage, &expected, &format!("{name}.{stage}"), TOLERANCE);
        }
    }
}
