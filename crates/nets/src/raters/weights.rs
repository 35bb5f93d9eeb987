//! Checkpoints of rating networks. Publishers call and nest the same tensors differently; a network knows one set of
//! names, and a layout leads from them to the stored ones.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::checkpoint::{Checkpoint, CheckpointError, Wanted};
use crate::layers::{NamedTensors, Parameters};

/// A published layout of a network's tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The stored name of a tensor that only this layout of this network has. A checkpoint may put a prefix before it,
    /// and then does so before all names: `module.`, `params.`, ….
    pub(crate) landmark: &'static str,
    /// Beginnings of the network's names, each with the beginning of the stored name. The first that fits counts. A
    /// name without a pair is stored as it is.
    pub(crate) renamed: &'static [(&'static str, &'static str)],
}

impl Layout {
    /// The layout whose stored names are the network's own.
    pub(crate) const fn plain(landmark: &'static str) -> Self {
        Self { landmark, renamed: &[] }
    }
}

/// A checkpoint in one of a network's layouts, seen under the network's own names.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    checkpoint: &'a Checkpoint,
    layout: &'static Layout,
    prefix: String,
}

impl<'a> Stored<'a> {
    /// The checkpoint in the first of `layouts` that fits; `None` if none does.
    pub(crate) fn find(checkpoint: &'a Checkpoint, layouts: &'static [Layout]) -> Option<Self> {
        layouts.iter().find_map(|layout| {
            let prefix = checkpoint.prefix_of(layout.landmark)?.to_owned();
            Some(Self { checkpoint, layout, prefix })
        })
    }

    /// The stored name of the network's tensor `name`.
    pub(super) fn name(&self, name: &str) -> String {
        let renamed = self.layout.renamed.iter();
        let stored = renamed.filter_map(|(own, stored)| Some(format!("{stored}{}", name.strip_prefix(own)?))).next();
        format!("{}{}", self.prefix, stored.as_deref().unwrap_or(name))
    }

    /// The shape of the tensor `name`, which must have `N` dimensions.
    ///
    /// # Errors
    /// The tensor is absent or has another number of dimensions.
    pub(crate) fn shape<const N: usize>(&self, name: &str) -> Result<[i64; N], CheckpointError> {
        let dims = self.dims(name)?;
        <[i64; N]>::try_from(dims).map_err(|_| CheckpointError::Damaged {
            path: self.checkpoint.path().to_owned(),
            problem: format!("tensor `{}` has shape {dims:?}, expected {N} dimensions", self.name(name)),
        })
    }

    /// The shape of the tensor `name`.
    ///
    /// # Errors
    /// The tensor is absent.
    pub(crate) fn dims(&self, name: &str) -> Result<&[i64], CheckpointError> {
        Ok(&self.checkpoint.info(&self.name(name))?.shape)
    }

    /// Whether the checkpoint has the tensor `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.contains(&self.name(name))
    }

    /// How many of the tensors `name(0)`, `name(1)`, … the checkpoint has, up to the first that it lacks.
    pub(crate) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|i| self.has(&name(*i))).count()
    }
}

/// Checkpoints, each with the tensors that a network reads from it.
pub(super) struct Parts(pub(super) Vec<(Checkpoint, Wanted)>);

impl Parts {
    /// Hash of the tensors, for fingerprints.
    pub(super) fn content_hash(&self) -> Result<String, CheckpointError> {
        let hashes = self.0.iter().map(|(checkpoint, wanted)| wanted.content_hash(checkpoint));
        Ok(hashes.collect::<Result<Vec<_>, _>>()?.join("+"))
    }

    /// The tensors.
    pub(super) fn read(&self) -> Result<NamedTensors, CheckpointError> {
        let mut tensors = NamedTensors::new();
        for (checkpoint, wanted) in &self.0 {
            tensors.extend(wanted.read(checkpoint)?);
        }
        Ok(tensors)
    }
}

/// Parameters without values, which notes what a network asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    prefix: String,
    found: Rc<RefCell<BTreeMap<String, Vec<i64>>>>,
}

impl Listing {
    /// Names and shapes of all tensors that were asked for.
    pub(super) fn into_parameters(self) -> BTreeMap<String, Vec<i64>> {
        self.found.take()
    }
}

impl Parameters for Listing {
    type Error = Infallible;

    fn below(&self, name: impl Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), found: Rc::clone(&self.found) }
    }

    fn tensor(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, Infallible> {
        self.found.borrow_mut().insert(format!("{}{name}", self.prefix), shape.to_vec());
        // One value for all positions: it takes no memory.
        Ok(Tensor::zeros([0_i64; 0], (kind, Device::Cpu)).expand(shape, false))
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn kind(&self) -> Kind {
        Kind::Float
    }
}
