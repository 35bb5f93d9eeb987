//! From images to feature columns: extractors and the decode, network, write stage.
