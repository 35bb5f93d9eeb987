//! The networks and their configurations. Command-line flags and tables belong elsewhere.
//!
//! - [`onnx`] reads the file format of the weights that a package index carries.
//! - [`checkpoint`] reads the other formats in which networks are published.
//! - [`device`] places tensors on devices and fetches them, and knows what libtorch does there.
//! - [`layers`] holds layers that several networks share; [`pixels`] makes inputs of pictures.
//! - [`vit`] is the vision transformer under the image networks.
//! - [`clip`] loads CLIP's image tower into that transformer.
//! - [`dinov2`] loads DINOv2 ViT-S/14 into it.
//! - [`maniqa`] predicts quality from the transformer's activations.
//! - [`mplug_owl2`] is the multimodal language model of the paper.
//! - [`raters`] are the networks that give an image one rating.
//! - [`fusion`] is the head that turns features into a score.
//! - [`kernel_ridge`] is the other head: kernel ridge regression on the same features.
//! - [`ma_agiqa`] is MANIQA with that head.

pub mod onnx;

pub mod checkpoint;

pub mod device;

pub mod layers;

pub mod pixels;

mod processor;

mod attention;

pub mod vit;

pub mod clip;
pub mod dinov2;

mod conv;

mod resnet;
mod strips;
mod vgg;

pub mod raters;

pub mod maniqa;
pub mod mplug_owl2;

pub mod fusion;

pub mod ma_agiqa;

pub mod kernel_ridge;

pub mod trained_head;

#[cfg(test)]
mod parity;
