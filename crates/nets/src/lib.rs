//! The networks, each beside its configuration and nothing else: no flags, no tables.
//!
//! [`onnx`] reads the file format that the default extractor's weights come in, [`checkpoint`] those that networks are
//! published in; [`layers`] is what several networks are built of; [`vit`] is the transformer that image networks here
//! are built on; [`dinov2`] is that transformer with the weights of DINOv2 ViT-S/14. [`maniqa`] reads quality from such a
//! transformer; [`mplug_owl2`] is the multimodal language model of the paper. [`fusion`] is the head that turns features
//! into a score, [`ma_agiqa`] is MANIQA with that head on it.

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

pub mod trained_head;
