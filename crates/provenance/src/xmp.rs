//! Two properties of XMP: the IPTC digital source type, and the user comment that Draw Things writes.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion, escape};

use crate::container::Found;

const SOURCE_TYPE: &str = "DigitalSourceType";
const USER_COMMENT: &str = "UserComment";

/// The source types of IPTC's list that say that a model made the image, or a part of it.
const SYNTHETIC: [&str; 3] = ["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"];

/// Adds what the XMP packet `text` says to `found`. The text must be counted before.
pub(crate) fn read(text: &str, found: &mut Found) {
    let mut reader = Reader::from_str(text);
    // The property that the present text belongs to. Its text may lie in elements within it.
    let mut property: Option<(&str, String)> = None;
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                attributes(&start, found);
                let name = start.local_name();
                let opened = [SOURCE_TYPE, USER_COMMENT].into_iter().find(|property| *property == name.into_inner());
                property = opened.map(|name| (name, String::new())).or(property);
            }
            Ok(Event::Empty(start)) => attributes(&start, found),
            Ok(Event::Text(part)) => add(&mut property, &part.xml10_content()),
            Ok(Event::CData(part)) => add(&mut property, &part.xml10_content()),
            Ok(Event::GeneralRef(part)) => match part.resolve_char_ref() {
                Ok(Some(character)) => add(&mut property, character.encode_utf8(&mut [0; 4])),
                _ => add(&mut property, escape::resolve_predefined_entity(&part).unwrap_or_default()),
            },
            Ok(Event::End(end)) => {
                let is_over = |(name, _): &mut (&str, String)| *name == end.local_name().into_inner();
                if let Some((name, text)) = property.take_if(is_over) {
                    set(name, text.trim(), found);
                }
            }
            Ok(Event::Eof) => return,
            Ok(_) => {}
            Err(error) => return found.note(format!("the XMP is broken: {error}")),
        }
    }
}

fn add(property: &mut Option<(&str, String)>, part: &str) {
    if let Some((_, text)) = property {
        text.push_str(part);
    }
}

fn attributes(start: &BytesStart<'_>, found: &mut Found) {
    for attribute in start.attributes().with_checks(false).flatten() {
        let name = attribute.key.local_name().into_inner();
        if [SOURCE_TYPE, USER_COMMENT, "resource"].contains(&name)
            && let Ok(value) = attribute.normalized_value(XmlVersion::Implicit1_0)
        {
            // `<Iptc4xmpExt:DigitalSourceType rdf:resource="…"/>` holds its value in an attribute.
            let is_source = name == "resource" && start.local_name().into_inner() == SOURCE_TYPE;
            set(if is_source { SOURCE_TYPE } else { name }, &value, found);
        }
    }
}

fn set(property: &str, value: &str, found: &mut Found) {
    let source = value.rsplit('/').next().unwrap_or(value);
    match property {
        // The other composites are of photographs.
        SOURCE_TYPE if SYNTHETIC.contains(&source) => {
            found.declared_synthetic = Some(source.to_owned());
        }
        USER_COMMENT if found.allows(value.len()) => found.comments.push(value.to_owned()),
        _ => {}
    }
}
