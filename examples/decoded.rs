//! Decodes every file of a folder as the program does, for a comparison with another decoder:
//!
//! ```sh
//! cargo run --release --example decoded -- FOLDER OUT
//! ```
//!
//! Prints a JSON object per file: its path below the folder, and its sides or the kind of the error. The pixels of the
//! n-th file, 8-bit RGB, are written to `OUT/n.rgb`.

use std::io::Write as _;
use std::path::Path;

use agiqa_images::{DecodeLimits, decode};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [folder, out] = &args[..] else {
        return Err("usage: decoded FOLDER OUT".into());
    };
    std::fs::create_dir_all(out)?;
    let mut stdout = std::io::stdout().lock();
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter();
    let files = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
    for (i, entry) in files.enumerate() {
        let mut line = serde_json::json!({ "file": entry.path().strip_prefix(folder)?.to_string_lossy() });
        match decode(&std::fs::read(entry.path())?, &DecodeLimits::default()) {
            Ok((info, image)) => {
                std::fs::write(Path::new(out).join(format!("{i}.rgb")), &image.pixels)?;
                line["format"] = info.format.into();
                line["sides"] = vec![info.width_px, info.height_px].into();
            }
            Err(error) => {
                line["kind"] = error.kind().into();
                line["error"] = error.to_string().into();
            }
        }
        writeln!(stdout, "{line}")?;
    }
    Ok(())
}
