//! JPEG by libjpeg-turbo, as Pillow decodes it, except that a damaged scan ends the decoding.
//!
//! libjpeg warns of lost data and goes on with grey or shifted blocks. Nothing in such a picture tells which blocks are
//! wrong, so this module refuses it. A missing end marker alone is harmless: the picture may be whole without it.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::os::raw::c_int;

use mozjpeg::decompress::DecompressStarted;
use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys::{
    JWRN_ADOBE_XFORM, JWRN_EXTRANEOUS_DATA, JWRN_JFIF_MAJOR, JWRN_JPEG_EOF, JWRN_NOT_SEQUENTIAL, JWRN_TOO_MUCH_DATA,
    jpeg_common_struct, jpeg_error_mgr, jpeg_std_error,
};

use super::{DecodeLimits, ImageError, ImageInfo, RgbImage8};

const FORMAT: &str = "jpeg";

/// Begins the message of a panic that a damaged scan causes.
const DAMAGED_SCAN: &str = "damaged scan: ";

/// Shortest run of zeros at a file's end that counts as padding.
const LEAST_PADDING: usize = 64;

/// Bytes that libjpeg may read ahead of the bits that it decodes.
const READ_AHEAD: usize = 16;

/// What happened while libjpeg read a file's bytes.
#[derive(Default)]
struct Progress {
    /// All bytes are read.
    has_ended: Cell<bool>,
    /// Zeros at the file's end are read as data.
    is_in_padding: Cell<bool>,
}

/// A file's bytes for libjpeg. Behind their end, libjpeg's reader makes up an end marker.
struct JpegBytes<'a> {
    data: &'a [u8],
    padding: &'a [u8],
    progress: &'a Progress,
}

impl<'a> JpegBytes<'a> {
    fn new(bytes: &'a [u8], progress: &'a Progress) -> Self {
        let n_zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let n_padding = if n_zeros < LEAST_PADDING { 0 } else { n_zeros - READ_AHEAD };
        let (data, padding) = bytes.split_at(bytes.len() - n_padding);
        Self { data, padding, progress }
    }
}

impl Read for JpegBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for JpegBytes<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.data.is_empty() {
            self.data = std::mem::take(&mut self.padding);
            let flag = if self.data.is_empty() { &self.progress.has_ended } else { &self.progress.is_in_padding };
            flag.set(true);
        }
        Ok(self.data)
    }

    fn consume(&mut self, n: usize) {
        self.data = &self.data[n..];
    }
}

/// Decodes the file `bytes`. libjpeg's errors are panics whose message [`error_of`] turns into an error.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<(ImageInfo, RgbImage8), ImageError> {
    let progress = Progress::default();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decode_scans(bytes, limits, &progress)));
    caught.unwrap_or_else(|panic| {
        let reason = super::decode::panic_message(panic);
        Err(match reason.strip_prefix(DAMAGED_SCAN) {
            _ if progress.has_ended.get() || reason.contains("Input file read error") => {
                ImageError::Truncated { format: FORMAT }
            }
            Some(reason) => ImageError::DamagedScan { reason: reason.to_owned() },
            // 12 bits, lossless and hierarchical coding.
            None if reason.contains("Unsupported JPEG") => ImageError::Unsupported { format: FORMAT, reason },
            None => ImageError::Damaged { format: FORMAT, reason },
        })
    })
}

/// Width and height of the file `bytes`, from its header.
pub fn size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    let progress = Progress::default();
    let open = || sides(&Decompress::with_err(error_manager()).from_reader(JpegBytes::new(bytes, &progress))?);
    let damaged = |reason: String| ImageError::Damaged { format: FORMAT, reason };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(open))
        .map_err(|panic| damaged(super::decode::panic_message(panic)))?
        .map_err(|error| damaged(error.to_string()))
}

fn sides<R>(decompress: &Decompress<R>) -> io::Result<(u32, u32)> {
    let side = |n: usize| u32::try_from(n).map_err(|_| io::Error::other(format!("a side of {n} pixels")));
    Ok((side(decompress.width())?, side(decompress.height())?))
}

fn decode_scans(
    bytes: &[u8],
    limits: &DecodeLimits,
    progress: &Progress,
) -> Result<(ImageInfo, RgbImage8), ImageError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ImageError::Truncated { format: FORMAT },
        _ => ImageError::Damaged { format: FORMAT, reason: error.to_string() },
    };
    let reader = JpegBytes::new(bytes, progress);
    let decompress = Decompress::with_err(error_manager()).from_reader(reader).map_err(failed)?;
    let (width_px, height_px) = sides(&decompress).map_err(failed)?;
    super::decode::check_size(width_px, height_px, limits)?;
    // A block of 8 × 8 pixels takes a bit or more, unless it is coded arithmetically. Without this check, a header of a
    // few bytes would take memory for the coefficients that it claims.
    let n_blocks = u64::from(width_px.div_ceil(8)) * u64::from(height_px.div_ceil(8));
    if n_blocks > 8 * bytes.len() as u64 && !is_arithmetic(bytes) {
        return Err(ImageError::Truncated { format: FORMAT });
    }
    let is_cmyk = matches!(decompress.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK);
    let target = if is_cmyk { ColorSpace::JCS_CMYK } else { ColorSpace::JCS_RGB };
    let mut started = decompress.to_colorspace(target).map_err(failed)?;
    let pixels = started.read_scanlines::<u8>().map_err(failed)?;
    let is_whole = if progress.has_ended.get() {
        has_all_scans(bytes)
    } else {
        !progress.is_in_padding.get() || is_progressive(bytes)
    };
    let pixels = if is_cmyk { rgb_from_cmyk(&pixels) } else { pixels };
    if !is_whole || pixels.len() as u64 != 3 * u64::from(width_px) * u64::from(height_px) {
        return Err(ImageError::Truncated { format: FORMAT });
    }
    match left_over(started, bytes) {
        // Without an end marker, whatever follows the picture is no part of it.
        Some(reason) if !progress.has_ended.get() => return Err(ImageError::DamagedScan { reason }),
        _ => {}
    }
    Ok((ImageInfo { format: FORMAT, width_px, height_px }, RgbImage8 { width_px, height_px, pixels }))
}

/// libjpeg's warning of data that are left after the last line of a picture, before its end marker. Zeros and fill bytes are
/// padding. Whatever else is wrong behind the last line cannot change the picture.
fn left_over<R>(started: DecompressStarted<R>, bytes: &[u8]) -> Option<String> {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| started.finish()));
    let reason = super::decode::panic_message(ended.err()?);
    let reason = reason.strip_prefix(DAMAGED_SCAN)?;
    let n_bytes: usize = reason.split(' ').find_map(|word| word.parse().ok())?;
    let scan = segments(bytes).find(|segment| segment.marker == 0xDA)?.end;
    let end = scan + bytes[scan..].windows(2).position(|pair| pair == [0xFF, 0xD9])?;
    let is_padding = bytes[end.saturating_sub(n_bytes)..end].iter().all(|byte| matches!(byte, 0 | 0xFF));
    (!is_padding).then(|| reason.to_owned())
}

/// Pillow's `cmyk2rgb`: each colour is the white that ink and black leave, `(255 - k) - c (255 - k) / 255`, rounded. Like
/// Pillow, it takes every file's values for inverted, whether or not a marker of Adobe says so.
fn rgb_from_cmyk(cmyk: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(cmyk.len() / 4 * 3);
    for pixel in cmyk.chunks_exact(4) {
        let white = u32::from(pixel[3]);
        for ink in &pixel[..3] {
            let product = u32::from(255 - ink) * white + 128;
            let inked = (product + (product >> 8)) >> 8;
            rgb.push(u8::try_from(white.saturating_sub(inked)).unwrap_or(0));
        }
    }
    rgb
}

/// A marker of a file and the bytes of its segment.
struct Segment<'a> {
    marker: u8,
    content: &'a [u8],
    /// Place of the first byte behind it.
    end: usize,
}

/// The segments of a file, scans' data between them left out. Ends where the file contradicts itself.
fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut at = 2;
    std::iter::from_fn(move || {
        loop {
            at += bytes.get(at..)?.iter().position(|byte| *byte == 0xFF)? + 1;
            let marker = *bytes.get(at)?;
            // Stuffed data, fill bytes and restarts have no length.
            if matches!(marker, 0x01..=0xCF | 0xDA..=0xFE) {
                let n = usize::from(u16::from_be_bytes([*bytes.get(at + 1)?, *bytes.get(at + 2)?]));
                let content = bytes.get(at + 3..at + 1 + n.max(2))?;
                at += 1 + n.max(2);
                return Some(Segment { marker, content, end: at });
            }
        }
    })
}

/// The kind of the frame: the marker that begins it.
fn frame_marker(bytes: &[u8]) -> Option<u8> {
    segments(bytes)
        .map(|segment| segment.marker)
        .find(|marker| matches!(marker, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB))
}

fn is_progressive(bytes: &[u8]) -> bool {
    matches!(frame_marker(bytes), Some(0xC2 | 0xCA))
}

fn is_arithmetic(bytes: &[u8]) -> bool {
    matches!(frame_marker(bytes), Some(0xC9..=0xCB))
}

/// Whether a file without an end marker has a last scan of every coefficient. Arithmetic coding does not tell where its
/// data end, so its files need the marker.
fn has_all_scans(bytes: &[u8]) -> bool {
    // For each component's id, the bits of each coefficient that are still to come.
    let mut missing: Vec<(u8, [u8; 64])> = Vec::new();
    for Segment { marker, content, .. } in segments(bytes) {
        match marker {
            0xC9..=0xCB => return false,
            0xC0..=0xC2 if content.len() > 5 => {
                missing = content[6..].chunks_exact(3).map(|component| (component[0], [u8::MAX; 64])).collect();
            }
            0xDA if !content.is_empty() => {
                let n = usize::from(content[0]);
                let (Some(ids), Some(&[first, last, bits])) =
                    (content.get(1..1 + 2 * n), content.get(1 + 2 * n..4 + 2 * n))
                else {
                    return false;
                };
                for (_, bits_left) in
                    missing.iter_mut().filter(|(id, _)| ids.iter().step_by(2).any(|other| other == id))
                {
                    let scanned = bits_left.get_mut(usize::from(first)..=usize::from(last));
                    scanned.into_iter().flatten().for_each(|left| *left = bits & 0x0F);
                }
            }
            _ => {}
        }
    }
    !missing.is_empty() && missing.iter().all(|(_, bits_left)| bits_left.iter().all(|left| *left == 0))
}

/// libjpeg's error manager. Errors are panics with libjpeg's message, and so are warnings of data that are lost.
#[expect(unsafe_code, reason = "libjpeg takes its error manager as a C struct of functions")]
fn error_manager() -> jpeg_error_mgr {
    // SAFETY: the struct holds optional functions, integers and pointers, for which zero is a value; `jpeg_std_error` fills
    // every field that libjpeg reads.
    let mut manager: jpeg_error_mgr = unsafe { std::mem::zeroed() };
    // SAFETY: the argument is a valid struct, which the function fills and does not keep.
    unsafe { jpeg_std_error(&mut manager) };
    manager.error_exit = Some(fail);
    manager.emit_message = Some(warn);
    manager
}

/// libjpeg is built with unwinding, so a panic may pass through its functions. `resume_unwind` calls no panic hook.
#[cold]
extern "C-unwind" fn fail(cinfo: &mut jpeg_common_struct) {
    std::panic::resume_unwind(Box::new(format!("libjpeg fatal error: {}", message(cinfo))));
}

extern "C-unwind" fn warn(cinfo: &mut jpeg_common_struct, level: c_int) {
    if level < 0 && is_loss(cinfo) {
        std::panic::resume_unwind(Box::new(format!("{DAMAGED_SCAN}{}", message(cinfo))));
    }
}

/// libjpeg's state once its header is read and its scans begin, `DSTATE_PRELOAD`.
const IN_SCANS: c_int = 203;

/// libjpeg's state once all lines are read, `DSTATE_STOPPING`.
const STOPPING: c_int = 210;

/// libjpeg's marker for the end of an image.
const EOI: u32 = 0xD9;

/// Whether the warning tells of lost data of a scan. Unknown revisions and markers lose nothing, and neither do bytes
/// before the scans or behind those of a progressive file.
#[expect(unsafe_code, reason = "the warning stands in a C struct behind a pointer")]
fn is_loss(cinfo: &jpeg_common_struct) -> bool {
    // SAFETY: libjpeg's `err` points to the manager of this decompressor for as long as it lives.
    let Some(manager) = (unsafe { cinfo.err.as_ref() }) else { return false };
    match manager.msg_code {
        JWRN_ADOBE_XFORM | JWRN_JFIF_MAJOR | JWRN_JPEG_EOF | JWRN_NOT_SEQUENTIAL | JWRN_TOO_MUCH_DATA => false,
        // The second parameter is the marker that follows the bytes.
        JWRN_EXTRANEOUS_DATA => {
            let is_at_end = manager.msg_parm._bindgen_data_[1] == EOI;
            cinfo.global_state >= IN_SCANS && (!is_at_end || cinfo.global_state == STOPPING)
        }
        _ => true,
    }
}

/// libjpeg's words for its current message.
#[expect(unsafe_code, reason = "libjpeg writes the message through a C function")]
fn message(cinfo: &mut jpeg_common_struct) -> String {
    type Write = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &mut [u8; 200]);
    // SAFETY: as in `is_loss`.
    let Some(format) = (unsafe { cinfo.err.as_ref() }).and_then(|manager| manager.format_message) else {
        return String::new();
    };
    let mut buffer = [0; 200];
    // SAFETY: the binding declares the buffer, a pointer in C, as shared and of 80 bytes. The function writes up to 200, its
    // `JMSG_LENGTH_MAX`, which this buffer has.
    unsafe {
        let write =
            std::mem::transmute::<unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &[u8; 80]), Write>(format);
        write(cinfo, &mut buffer);
    }
    let n = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmyk_follows_pillow() {
        // Pillow: Image.new("CMYK", (1, 1), (10, 200, 30, 40)).convert("RGB").getpixel((0, 0)) == (207, 46, 190)
        assert_eq!(rgb_from_cmyk(&[245, 55, 225, 215]), [207, 46, 190]);
    }
}
