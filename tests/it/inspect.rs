//! `agiqa inspect`: what each generator writes, in each kind of file, and hostile bytes.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::testdir::TestDir;

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&u32::try_from(data.len()).expect("small").to_be_bytes()[..], kind, data, &[0; 4]].concat()
}

/// A PNG file of these chunks, without pixels: nothing here decodes any.
fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let chunks = chunks.iter().flat_map(|(kind, data)| png_chunk(kind, data));
    b"\x89PNG\r\n\x1a\n".iter().copied().chain(chunks).chain(png_chunk(b"IEND", &[])).collect()
}

/// A PNG file with these texts as `tEXt`.
fn png_texts(texts: &[(&str, &str)]) -> Vec<u8> {
    let text = |(key, text): &(&str, &str)| (b"tEXt", [key.as_bytes(), &[0], text.as_bytes()].concat());
    png(&texts.iter().map(text).collect::<Vec<_>>())
}

fn inflated(n_bytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b'a'; n_bytes]).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// A little-endian TIFF with IFD0's `entries` as ASCII and a user comment behind the Exif IFD.
fn tiff(entries: &[(u16, &[u8])], comment: Option<&[u8]>) -> Vec<u8> {
    let n = entries.len() + usize::from(comment.is_some());
    let mut values = 8 + 2 + 12 * n + 4;
    let mut bytes = [&b"II*\0\x08\0\0\0"[..], &u16::try_from(n).expect("small").to_le_bytes()].concat();
    let long = |n: usize| u32::try_from(n).expect("small").to_le_bytes();
    let mut tail = Vec::new();
    for (tag, value) in entries {
        bytes.extend([&tag.to_le_bytes()[..], &[2, 0], &long(value.len()), &long(values)].concat());
        values += value.len();
        tail.extend_from_slice(value);
    }
    if let Some(comment) = comment {
        bytes.extend([&0x8769_u16.to_le_bytes()[..], &[4, 0], &long(1), &long(values)].concat());
        let entry = [&[1, 0][..], &0x9286_u16.to_le_bytes(), &[7, 0], &long(comment.len()), &long(values + 14)];
        tail.extend([&entry.concat(), comment].concat());
    }
    // The link to a next IFD is broken, as AUTOMATIC1111 writes it.
    [bytes, vec![0xff; 4], tail].concat()
}

fn unicode(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    b"UNICODE\0".iter().copied().chain(text.encode_utf16().flat_map(unit)).collect()
}

fn jpeg(segments: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8];
    for (marker, data) in segments {
        bytes.extend([0xff, *marker]);
        bytes.extend(u16::try_from(data.len() + 2).expect("small").to_be_bytes());
        bytes.extend(data);
    }
    bytes.extend([0xff, 0xda, 0, 2, 0xff, 0xd9]);
    bytes
}

fn jpeg_comment(comment: &[u8]) -> Vec<u8> {
    jpeg(&[(0xe1, [&b"Exif\0\0"[..], &tiff(&[], Some(comment))].concat())])
}

fn webp(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let chunk = |(kind, data): &(&[u8; 4], Vec<u8>)| {
        let length = u32::try_from(data.len()).expect("small").to_le_bytes();
        [&kind[..], &length, data, &vec![0; data.len() % 2]].concat()
    };
    [b"RIFF\0\0\0\0WEBP".to_vec(), chunks.iter().flat_map(chunk).collect()].concat()
}

/// What `agiqa inspect --json` prints of `files`, in their order.
#[track_caller]
fn inspected(files: &[(&str, Vec<u8>)]) -> Vec<Value> {
    let dir = TestDir::new();
    files.iter().for_each(|(name, bytes)| _ = dir.write(name, bytes));
    let names = files.iter().map(|(name, _)| *name);
    let ran = dir.agiqa(&["--json", "inspect"].into_iter().chain(names).collect::<Vec<_>>()).exits(0);
    let values = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    values.filter(|value| value["type"] == "inspected").collect()
}

const A1111: &str = "a cat, (blue:1.2)\non a \"mat\"\nNegative prompt: dog\nbird\nSteps: 20, Sampler: DPM++ 2M, Schedule type: \
                     Karras, CFG scale: 7, Seed: 18446744073709551615, Size: 512x512, Model hash: 6ce0161689, Model: v1-5, \
                     Note: \"a: 1, b\", Version: v1.10.1";

/// A graph of ComfyUI whose two sampling nodes read `first` and `second`.
fn graph(first: &str, second: &str, seed: u64) -> String {
    json!({
        "3": {"class_type": "KSampler", "inputs": {"seed": seed, "steps": 20, "cfg": 8, "sampler_name": "euler",
              "model": ["4", 0], "positive": ["9", 0], "negative": ["9", 1]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0], "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "dog", "clip": ["4", 1]}},
        "8": {"class_type": "CLIPTextEncode", "inputs": {"text": second, "clip": ["4", 1]}},
        "9": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1}},
        "10": {"class_type": "KSampler", "inputs": {"seed": ["11", 0], "steps": 9, "cfg": 8, "sampler_name": "euler",
               "positive": ["8", 0], "negative": ["7", 0]}},
        "11": {"class_type": "Seed", "inputs": {"seed": seed}},
        "12": {"class_type": "PrimitiveString", "inputs": {"value": first}},
        "13": {"class_type": "SaveImage", "inputs": {"filename_prefix": seed.to_string(), "images": ["3", 0]}},
    })
    .to_string()
}

#[track_caller]
fn assert_fields(found: &Value, expected: Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&found[key], value, "{key} of {found:#}");
    }
}

#[test]
fn automatic1111_is_read_in_all_kinds_of_files() {
    let found = inspected(&[
        ("a.png", png_texts(&[("parameters", A1111)])),
        ("b.png", png(&[(b"iTXt", [b"parameters\0\0\0\0\0", A1111.as_bytes()].concat())])),
        ("c.jpg", jpeg_comment(&unicode(A1111, u16::to_be_bytes))),
        ("d.jpg", jpeg_comment(&unicode(A1111, u16::to_le_bytes))),
        ("e.jpg", jpeg_comment(&[b"ASCII\0\0\0", A1111.as_bytes()].concat())),
        ("f.webp", webp(&[(b"VP8 ", vec![1; 3]), (b"EXIF", tiff(&[(0x9286, A1111.as_bytes())], None))])),
        ("g.webp", webp(&[(b"EXIF", tiff(&[], Some(&unicode(A1111, u16::to_be_bytes))))])),
        ("grid-0001.png", png_texts(&[("parameters", A1111)])),
        ("forge.png", png_texts(&[("parameters", &A1111.replace("v1.10.1", "f2.0.1"))])),
        ("camera.jpg", jpeg_comment(b"ASCII\0\0\0taken in 2019")),
    ]);
    for found in &found[..7] {
        let expected = json!({
            "tool": "AUTOMATIC1111", "prompt": "a cat, (blue:1.2)\non a \"mat\"", "negative_prompt": "dog\nbird",
            "seed": "18446744073709551615", "model": "v1-5", "sampler": "DPM++ 2M", "prompt_source": "embedded",
            "notes": [], "group_id": null,
        });
        assert_fields(found, expected);
    }
    let kinds: Vec<&str> = found.iter().filter_map(|found| found["container"].as_str()).collect();
    assert_eq!(kinds[..7], ["png", "png", "jpeg", "jpeg", "jpeg", "webp", "webp"]);
    assert_fields(&found[7], json!({"prompt": null, "prompt_source": "none"}));
    assert!(found[7]["notes"][0].as_str().is_some_and(|note| note.contains("a grid of images")));
    assert_eq!(found[8]["tool"], "Forge");
    assert_fields(&found[9], json!({"tool": null, "prompt_source": "none"}));
}

#[test]
fn comfyuis_graph_gives_the_prompt_that_its_samplers_read_or_says_that_there_are_several() {
    let plain = graph("a cat", "a cat", 7);
    let with_nan = plain.replace("\"strength\":1", "\"strength\":NaN");
    let make = |text: &str| format!("{text}\0").into_bytes();
    let flux = json!({
        "1": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["2", 0], "guider": ["3", 0], "sigmas": ["9", 0]}},
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}},
        "3": {"class_type": "BasicGuider", "inputs": {"conditioning": ["4", 0]}},
        "4": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["5", 0]}},
        "5": {"class_type": "CLIPTextEncodeFlux", "inputs": {"clip_l": "cat", "t5xxl": "a cat on a mat"}},
        "6": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev"}},
    });
    let computed = plain.replace("{\"value\":\"a cat\"}", "{\"a\":\"a \",\"b\":\"cat\"}");
    let two = graph("a cat", "a dog", 7);
    let found = inspected(&[
        ("a.png", png_texts(&[("prompt", &plain), ("workflow", "{}")])),
        (
            "b.webp",
            webp(&[(
                b"EXIF",
                tiff(&[(0x010f, &make("workflow:{}")), (0x0110, &make(&format!("prompt:{with_nan}")))], None),
            )]),
        ),
        ("c.png", png(&[(b"IDAT", vec![0; 9]), (b"comf", [b"prompt\0", plain.as_bytes()].concat())])),
        ("other-seed.png", png_texts(&[("prompt", &graph("a cat", "a cat", 8))])),
        ("two.png", png_texts(&[("prompt", &two)])),
        ("told.png", png_texts(&[("prompt", &two), ("parameters", &A1111.replace("v1.10.1", "ComfyUI"))])),
        ("flux.png", png_texts(&[("prompt", &flux.to_string())])),
        ("computed.png", png_texts(&[("prompt", &computed)])),
    ]);
    for found in &found[..3] {
        let expected = json!({"tool": "ComfyUI", "prompt": "a cat", "negative_prompt": "dog", "seed": "7", "sampler": "euler",
                              "model": "sdxl.safetensors", "prompt_source": "embedded", "notes": []});
        assert_fields(found, expected);
    }
    let group = |index: usize| found[index]["group_id"].as_str().expect("a group");
    assert_eq!((group(0), group(0).len()), (group(3), 32), "images that differ in their seed are of one group");
    assert_ne!(group(0), group(4));
    assert_fields(
        &found[4],
        json!({"prompt": null, "prompt_source": "ambiguous", "negative_prompt": null, "tool": "ComfyUI"}),
    );
    assert_fields(&found[5], json!({"prompt_source": "embedded", "prompt": "a cat, (blue:1.2)\non a \"mat\""}));
    assert_fields(
        &found[6],
        json!({"prompt": "a cat on a mat", "seed": "5", "model": "flux1-dev", "negative_prompt": null}),
    );
    // The other sampler's text is the only one that is not computed.
    assert_fields(&found[7], json!({"prompt": "a cat", "prompt_source": "embedded"}));
}

#[test]
fn tools_that_write_json_or_a_key_a_value_are_told_apart() {
    let novel = json!({"uc": "dog", "seed": 3, "sampler": "k_euler", "prompt": "a cat"}).to_string();
    let fooocus = json!({"prompt": "a cat", "negative_prompt": "dog", "base_model": "juggernaut", "seed": "3", "version": "Fooocus v2.5.0"});
    let swarm =
        json!({"sui_image_params": {"prompt": "a cat", "negativeprompt": "dog", "seed": 3, "model": "m"}}).to_string();
    let easy =
        json!({"prompt": "a cat", "negative_prompt": "dog", "seed": 3, "use_stable_diffusion_model": "m"}).to_string();
    let invoke = json!({"positive_prompt": "a cat", "negative_prompt": "dog", "seed": 3, "scheduler": "euler", "model": {"name": "m"}});
    let old = json!({"model_weights": "m", "image": {"prompt": [{"prompt": "a cat", "weight": 1.0}], "seed": 3, "sampler": "k_lms"}});
    let draw = r#"<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description exif:UserComment=""><exif:UserComment><rdf:Alt><rdf:li>
        {&quot;c&quot;:&quot;a &lt;cat&gt;&quot;,&quot;uc&quot;:"dog","sampler":"Euler A","seed":3,"model":"m"}</rdf:li></rdf:Alt></exif:UserComment>"#;
    let found = inspected(&[
        (
            "novel.png",
            png_texts(&[("Software", "NovelAI"), ("Description", "a cat"), ("Source", "m"), ("Comment", &novel)]),
        ),
        ("fooocus.png", png_texts(&[("parameters", &fooocus.to_string()), ("fooocus_scheme", "fooocus")])),
        ("swarm.jpg", jpeg_comment(&unicode(&swarm, u16::to_be_bytes))),
        ("easy.jpg", jpeg_comment(easy.as_bytes())),
        ("invoke.png", png_texts(&[("invokeai_metadata", &invoke.to_string())])),
        ("old.png", png_texts(&[("sd-metadata", &old.to_string()), ("Dream", "\"a cat\" -s 50 -S 3 -A k_lms")])),
        (
            "easy.png",
            png_texts(&[
                ("prompt", "a cat"),
                ("negative_prompt", "dog"),
                ("seed", "3"),
                ("use_stable_diffusion_model", "m"),
            ]),
        ),
        ("midjourney.png", png_texts(&[("Description", "a cat --no dog --seed 3 --v 6.1 Job ID: 0b1c")])),
        ("draw.png", png(&[(b"iTXt", [b"XML:com.adobe.xmp\0\0\0\0\0", draw.as_bytes()].concat())])),
    ]);
    let row = |found: &Value| {
        ["tool", "prompt", "negative_prompt", "seed", "model"].map(|key| found[key].as_str().unwrap_or("-").to_owned())
    };
    let expected = [
        ["NovelAI", "a cat", "dog", "3", "m"],
        ["Fooocus", "a cat", "dog", "3", "juggernaut"],
        ["SwarmUI", "a cat", "dog", "3", "m"],
        ["Easy Diffusion", "a cat", "dog", "3", "m"],
        ["InvokeAI", "a cat", "dog", "3", "m"],
        ["InvokeAI", "a cat", "-", "3", "m"],
        ["Easy Diffusion", "a cat", "dog", "3", "m"],
        ["Midjourney", "a cat", "dog", "3", "Midjourney 6.1"],
        ["Draw Things", "a <cat>", "dog", "3", "m"],
    ];
    assert_eq!(found.iter().map(row).collect::<Vec<_>>(), expected.map(|row| row.map(str::to_owned)));
    assert!(found.iter().all(|found| found["prompt_source"] == "embedded"), "{found:#?}");
}

#[test]
fn marks_of_synthetic_origin_are_found_in_all_kinds_of_files() {
    let attribute = br#"<rdf:Description Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>"#;
    let element = b"<d><Iptc4xmpExt:DigitalSourceType>http://x/compositeWithTrainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType></d>";
    let photo = br#"<d Iptc4xmpExt:DigitalSourceType="http://x/digitalCapture"/>"#;
    let jumbf = b"JP\0\x01\0\0\0\x01\0\0\0\x40jumb\0\0\0\x1ejumdc2pa\0\x11\0\x10".to_vec();
    let found = inspected(&[
        ("a.png", png(&[(b"iTXt", [&b"XML:com.adobe.xmp\0\0\0\0\0"[..], attribute].concat()), (b"caBX", vec![0; 4])])),
        ("b.jpg", jpeg(&[(0xe1, [&b"http://ns.adobe.com/xap/1.0/\0"[..], element].concat()), (0xeb, jumbf)])),
        ("c.webp", webp(&[(b"XMP ", photo.to_vec()), (b"C2PA", vec![0; 3])])),
        ("d.gif", b"GIF89a".to_vec()),
    ]);
    let sources: Vec<&Value> = found.iter().map(|found| &found["declared_synthetic"]).collect();
    assert_eq!(
        sources,
        [&json!("trainedAlgorithmicMedia"), &json!("compositeWithTrainedAlgorithmicMedia"), &Value::Null, &Value::Null]
    );
    assert_eq!(found.iter().map(|found| found["has_c2pa"] == true).collect::<Vec<_>>(), [true, true, true, false]);
    assert!(found[3]["notes"][0].as_str().is_some_and(|note| note.contains("neither PNG nor JPEG nor WebP")));
}

#[test]
fn people_see_one_line_a_value_and_no_control_characters_and_a_missing_file_stops_nothing() {
    let dir = TestDir::new();
    dir.write("a.png", png_texts(&[("parameters", &A1111.replace("a cat", "a\u{1b}[2J cat\u{202e}"))]));
    dir.agiqa(&["inspect", "missing.png", "a.png", "--max-rejects", "50%"]).exits(0);
    let ran = dir.agiqa(&["inspect", "missing.png", "a.png"]).exits(1).says("cannot read `missing.png`");
    let ran = ran
        .prints("a.png: PNG\n")
        .prints("  prompt              a\\u{1b}[2J cat\\u{202e}, (blue:1.2)\\non a \"mat\"\n");
    assert!(!ran.stdout.contains('\u{1b}'));
}

#[test]
fn hostile_bytes_cost_no_more_than_the_limits() {
    let bomb = |n_bytes| (b"zTXt", [&b"parameters\0\0"[..], &inflated(n_bytes)].concat());
    let liar = [&b"\x89PNG\r\n\x1a\n"[..], &u32::MAX.to_be_bytes(), b"tEXtprompt\0a"].concat();
    // Entries that all name the same long value.
    let comment = vec![b'x'; 1 << 20];
    let mut many = tiff(&[], Some(&comment));
    let entry = many[10..22].to_vec();
    many.splice(10..22, entry.repeat(200));
    many[8..10].copy_from_slice(&200_u16.to_le_bytes());
    let deep = format!("{{\"a\":{}", "[".repeat(1 << 20));
    let found = inspected(&[
        ("bomb.png", png(&[bomb(64 << 20)])),
        ("bombs.png", png(&[bomb(7 << 20), bomb(7 << 20), bomb(7 << 20)])),
        ("liar.png", liar),
        ("many.png", png(&[(b"eXIf", many)])),
        ("deep.png", png_texts(&[("prompt", &deep)])),
        ("long.png", png_texts(&[("prompt", &format!("{{\"a\":\"{}\"}}", "x".repeat(3 << 20)))])),
        ("key.png", png_texts(&[("parameters", &"aa".repeat(1 << 20))])),
        ("empty.png", Vec::new()),
    ]);
    let expected = [
        "inflates to more than",
        "inflates to more than",
        "claims 4294967295 bytes, and 8 are left",
        "",
        "is not JSON",
        "at most 2097152",
        "",
    ];
    for (found, expected) in found.iter().zip(expected) {
        let note = found["notes"][0].as_str().unwrap_or_default();
        assert!(note.contains(expected), "{}: {note}", found["path"]);
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as usize
}

#[test]
fn no_mutation_of_a_file_is_a_panic() {
    let xmp = br#"<d Iptc4xmpExt:DigitalSourceType="a/trainedAlgorithmicMedia"><exif:UserComment>{&quot;c&quot;:1}</exif:UserComment></d>"#;
    let files = [
        png(&[
            (b"tEXt", [b"parameters\0", A1111.as_bytes()].concat()),
            (b"zTXt", [&b"Comment\0\0"[..], &inflated(99)].concat()),
        ]),
        png(&[
            (b"tEXt", [b"prompt\0", graph("a", "b", 1).as_bytes()].concat()),
            (b"iTXt", [&b"XML:com.adobe.xmp\0\0\0\0\0"[..], xmp].concat()),
        ]),
        jpeg_comment(&unicode(A1111, u16::to_le_bytes)),
        jpeg(&[(0xe1, [&b"http://ns.adobe.com/xap/1.0/\0"[..], xmp].concat()), (0xeb, b"JP\0\0".to_vec())]),
        webp(&[(b"EXIF", tiff(&[(0x0110, b"prompt:{\"1\":{}}")], Some(b"UNICODE\0{\0}\0"))), (b"XMP ", xmp.to_vec())]),
    ];
    let mut state = 20;
    for round in 0..2000 {
        let mut bytes = files[round % files.len()].clone();
        for _ in 0..=next(&mut state) % 4 {
            let at = next(&mut state) % bytes.len();
            match next(&mut state) % 5 {
                0 => bytes[at] = next(&mut state) as u8,
                1 => bytes[at] ^= 1 << (next(&mut state) % 8),
                2 => bytes.truncate(at + 1),
                3 => _ = bytes.splice(at..at, [0xff; 4]),
                _ => {
                    let from = next(&mut state) % bytes.len();
                    let copied = bytes[from..bytes.len().min(from + 40)].to_vec();
                    bytes.splice(at..at, copied);
                }
            }
        }
        agiqa_provenance::read(&bytes, "mutated.png");
    }
}
