//! The networks and their configurations. Command-line flags and tables belong elsewhere.
//!
//! - [`onnx`] reads the file format of the default extractor's weights.
//! - [`checkpoint`] reads the other formats in which networks are published.
//! - [`layers`] holds layers that several networks share.
//! - [`vit`] is the vision transformer under the image networks.
//! - [`dinov2`] loads DINOv2 ViT-S/14 into that transformer.
//! - [`maniqa`] predicts quality from the transformer's activations.
//! - [`mplug_owl2`] is the multimodal language model of the paper.
//! - [`fusion`] is the head that turns features into a score.
//! - [`kernel_ridge`] is the other head: kernel ridge regression on the same features.
//! - [`ma_agiqa`] is MANIQA with that head.

pub mod onnx;

pub mod checkpoint;

pub mod layers;

mod processor;

mod attention;

pub mod vit;

pub mod dinov2;

pub mod maniqa;
pub mod mplug_owl2;

pub mod fusion;

pub mod ma_agiqa;

pub mod kernel_ridge;

pub mod trained_head;
