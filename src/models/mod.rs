//! The networks, each beside its configuration and nothing else: no flags, no tables.
//!
//! [`onnx`] reads the file format that the default extractor's weights come in, [`checkpoint`] those that networks are
//! published in; [`vit`] is the transformer that every
//! image network here is built on; [`dinov2`] is that transformer with the weights of DINOv2 ViT-S/14. [`fusion`] is the
//! head that turns features into a score.

pub mod onnx;

pub mod checkpoint;

pub mod vit;

pub mod dinov2;

pub mod fusion;

pub mod trained_head;
