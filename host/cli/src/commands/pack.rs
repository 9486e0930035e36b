//! `ostrakon pack`.

use super::{home, size, write_json};
use crate::args::PackArgs;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::style::Style;
use ostrakon_node::pack::{self, PackOptions};
use ostrakon_node::pack_float::{self, FloatSource, Piece};
use ostrakon_node::{Tier, Tolerance, float};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(crate) fn run(args: PackArgs, json: bool) -> Result<(), Problem> {
    let in_store = args.out.is_none();
    let options = PackOptions {
        out: args.out,
        shards: usize::from(args.shards),
        plugins: args.plugins.plugins,
        allow_unsigned: args.allow_unsigned,
        allow_unknown: args.allow_unknown_signer,
    };
    let progress = Progress::new(json);
    let watch = |event| progress.show(event);
    let packed = match (&args.source, args.name) {
        (Some(source), _) => pack::pack(source, &options, &home()?, &watch),
        (None, name) => {
            let source = FloatSource {
                name: name.unwrap_or_default(),
                licence: args.licence,
                source: sources(&args.onnx),
                tolerance: Tolerance { absolute: args.absolute, relative: args.relative },
                pieces: pieces(args.onnx, &args.settings)?,
            };
            pack_float::pack(&source, &options, &home()?, &watch)
        }
    };
    progress.finish();
    let packed = packed?;
    if json {
        return write_json(&packed);
    }
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    let shards = if packed.shards == 1 { "1 shard".to_owned() } else { format!("{} shards", packed.shards) };
    let name = style.strong(&packed.model);
    writeln!(out, "{name}: {}, {shards}, {:.1} s", size(packed.bytes), packed.took_ms / 1e3)?;
    writeln!(out, "  {}    {}", style.faint("path"), packed.path)?;
    writeln!(out, "  {}  {}", style.faint("digest"), packed.package)?;
    writeln!(out, "  {}  {}", style.faint("signed"), packed.signed_by)?;
    let word = if in_store { &packed.model } else { &packed.path };
    match float::tier(Path::new(&packed.path))? {
        Tier::Exact if packed.generates => writeln!(out, "talk with it: ostrakon chat {word}")?,
        Tier::Exact => writeln!(out, "run it: ostrakon run {word} --text 'A man is eating food.'")?,
        Tier::Float => writeln!(out, "see what it takes: ostrakon inspect {word}")?,
    }
    Ok(())
}

/// Where a package of graphs came from: the names of the files, not where they lie on this machine.
fn sources(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().filter_map(|file| file.file_name()).map(|name| name.to_string_lossy()).collect();
    names.join(", ")
}

/// The graphs with their settings.
fn pieces(files: Vec<PathBuf>, settings: &[String]) -> Result<Vec<Piece>, Problem> {
    let mut pieces: Vec<Piece> = files.into_iter().map(|file| Piece { file, settings: Vec::new() }).collect();
    for given in settings {
        let parsed =
            given.split_once(':').and_then(|(at, rest)| Some((at.parse::<usize>().ok()?, rest.split_once('=')?)));
        let (piece, (name, value)) =
            parsed.and_then(|(at, setting)| Some((pieces.get_mut(at)?, setting))).ok_or_else(|| {
                Problem::usage(format!("--set {given:?} is not N:NAME=VALUE with N the place of an --onnx"))
            })?;
        piece.settings.push((name.to_owned(), value.to_owned()));
    }
    Ok(pieces)
}
