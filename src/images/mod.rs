//! Image files: identification by content, decoding to 8-bit RGB, resizing.
