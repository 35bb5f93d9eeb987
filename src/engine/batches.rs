//! Inputs on their way through a network: collected into batches, launched, and fetched while later ones are computed.

use std::collections::VecDeque;

use super::guest::{Batch, Input, InputSize, Launched, Network};
use super::memory::{self, Chosen, is_allocation_failure};
use super::plan::Todo;
use super::run::{Sink, Stop};
use tch::Device;

/// Number of batches that a device computes or has before it while the calling thread collects the next one.
const N_AHEAD: usize = 2;

/// Inputs on their way into a network, and its batches that are not fetched yet.
pub(super) struct Batches<'a> {
    network: &'a mut dyn Network,
    todo: &'a [Todo],
    /// Number of images per call. It shrinks if memory is short.
    size: usize,
    /// Number of launched batches that may wait while the next one is collected. A CPU computes a batch while it is
    /// launched, so there is nothing to wait for.
    n_ahead: usize,
    /// Inputs that are not launched yet, and the positions of their images.
    inputs: Vec<Input>,
    positions: Vec<usize>,
    launched: VecDeque<Flight>,
}

/// A launched batch.
struct Flight {
    positions: Vec<usize>,
    size: usize,
    rows: Launched,
}

impl<'a> Batches<'a> {
    /// Batches of the size that the network wants and its device has memory for. Tells the user what was chosen.
    pub(super) fn new(network: &'a mut dyn Network, todo: &'a [Todo], sink: &Sink<'_>) -> Self {
        let frame = network.frame();
        let (batch_size, on_cpu) = (frame.batch_size, frame.device == Device::Cpu);
        let size = match frame.preprocessor.size() {
            InputSize::Varying => 1,
            InputSize::Fixed => {
                let room = memory::measured(network);
                let Chosen { n_images, note, warning } = memory::choose(batch_size, room);
                let console = &sink.run.context.console;
                note.iter().for_each(|note| console.info(note));
                warning.into_iter().for_each(|warning| console.warn(warning));
                n_images.max(1)
            }
        };
        let n_ahead = if on_cpu { 0 } else { N_AHEAD - 1 };
        Self { network, todo, size, n_ahead, inputs: Vec::new(), positions: Vec::new(), launched: VecDeque::new() }
    }

    /// Number of images per call.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Adds an input, and launches a batch if it is full.
    pub(super) fn take(&mut self, position: usize, input: Input, sink: &mut Sink<'_>) -> Result<(), Stop> {
        self.positions.push(position);
        self.inputs.push(input);
        while self.positions.len() >= self.size {
            self.launch(sink)?;
        }
        Ok(())
    }

    /// Launches the last images and fetches all batches.
    pub(super) fn finish(&mut self, sink: &mut Sink<'_>) -> Result<(), Stop> {
        while !self.positions.is_empty() {
            self.launch(sink)?;
        }
        self.fetch_all(sink)
    }

    /// Fetches all launched batches.
    pub(super) fn fetch_all(&mut self, sink: &mut Sink<'_>) -> Result<(), Stop> {
        while let Some(flight) = self.launched.pop_front() {
            self.fetch(flight, sink)?;
        }
        Ok(())
    }

    /// Launches the next batch, and fetches the oldest if too many wait. If memory is short, it first fetches all
    /// launched batches and then halves the number of images. Every batch is padded to its full size, so that an
    /// image's numbers never depend on its neighbours.
    fn launch(&mut self, sink: &mut Sink<'_>) -> Result<(), Stop> {
        let (n_images, rows) = loop {
            let n_images = self.size.min(self.inputs.len());
            match self.network.launch(&Batch { inputs: &self.inputs[..n_images], size: self.size }) {
                Err(error) if self.size > 1 && is_allocation_failure(error.as_ref()) => {
                    if self.launched.is_empty() {
                        self.halve(sink);
                    } else {
                        self.fetch_all(sink)?;
                    }
                }
                rows => break (n_images, rows.map_err(Stop::Guest)?),
            }
        };
        self.inputs.drain(..n_images);
        let positions = self.positions.drain(..n_images).collect();
        self.launched.push_back(Flight { positions, size: self.size, rows });
        while self.launched.len() > self.n_ahead
            && let Some(flight) = self.launched.pop_front()
        {
            self.fetch(flight, sink)?;
        }
        Ok(())
    }

    fn halve(&mut self, sink: &Sink<'_>) {
        self.size = self.size.div_ceil(2);
        sink.run.context.console.warn(format!(
            "the device is out of memory: continuing with {n} images at once; `--batch-size {n}` does so from the start",
            n = self.size
        ));
    }

    fn fetch(&self, flight: Flight, sink: &mut Sink<'_>) -> Result<(), Stop> {
        let Flight { positions, size, rows } = flight;
        let images: Vec<&Todo> = positions.iter().map(|position| &self.todo[*position]).collect();
        let rows = rows().map_err(Stop::Guest)?;
        sink.task_rows(0, &images, &rows, Some(size))
    }
}
