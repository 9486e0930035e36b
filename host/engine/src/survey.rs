//! The survey: what a component contains, counted in one pass that allocates next to nothing.

use crate::admission::AdmissionError;
use crate::error::bounded;
use std::ops::Range;
use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentType, ComponentTypeRef, Encoding, Instance,
    InstanceTypeDeclaration, Parser, Payload,
};

/// Most outermost imports, and most exports, whose names are kept.
const MAX_NAMES: usize = 64;

/// Counts and outermost names of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Outermost imports.
    pub imports: Vec<String>,
    /// Outermost exports.
    pub exports: Vec<String>,
    /// Core modules.
    pub modules: u64,
    /// Inner components.
    pub components: u64,
    /// How deep they nest.
    pub depth: u64,
    /// Functions with a body.
    pub functions: u64,
    /// Bytes of the largest body.
    pub largest_function: u64,
    /// Linear memories.
    pub memories: u64,
    /// Pages of all memories at the start.
    pub initial_pages: u64,
    /// Tables.
    pub tables: u64,
    /// Elements of all tables at the start.
    pub initial_elements: u64,
    /// Globals.
    pub globals: u64,
    /// Data and element segments.
    pub segments: u64,
    /// Types and the declarations inside of them.
    pub types: u64,
    /// Imports, exports, aliases, canonical functions, inner ones included.
    pub links: u64,
    /// Most core instances made by one component.
    pub most_core_instances: u64,
    /// An upper bound of the component instances that instantiation makes.
    pub unfolded: u64,
    /// An import, by an inner component, of a module or component.
    pub(crate) inner_import: Option<(&'static str, String)>,
    /// Start functions of components.
    pub(crate) component_starts: u64,
}

/// Most bytes of one type section that could open a type inside of a type.
const MAX_OPENINGS: u64 = 256;

/// A component or module that is being read.
#[derive(Default)]
struct Frame {
    component_instances: u64,
    core_instances: u64,
}

impl Survey {
    /// Read the structure of a component.
    ///
    /// # Errors
    /// The bytes are a core module, or cannot be parsed.
    pub fn read(bytes: &[u8]) -> Result<Self, AdmissionError> {
        // The parser would say the same with lists of bytes.
        if !bytes.is_empty() && !bytes.starts_with(b"\0asm") {
            return Err(AdmissionError::NotAComponent("it does not begin with the mark of WebAssembly".to_owned()));
        }
        let mut survey = Self { unfolded: 1, ..Self::default() };
        let mut frames: Vec<Frame> = Vec::new();
        let mut begun = false;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|e| unreadable(&e))?;
            if let Payload::ComponentTypeSection(section) = &payload {
                check_nesting(bytes, section.range())?;
            }
            begun = true;
            survey.add(payload, &mut frames)?;
        }
        if begun { Ok(survey) } else { Err(AdmissionError::NotAComponent("it is empty".to_owned())) }
    }

    fn add(&mut self, payload: Payload<'_>, frames: &mut Vec<Frame>) -> Result<(), AdmissionError> {
        match payload {
            Payload::Version { encoding, .. } => self.open(encoding, frames)?,
            Payload::End(_) => self.close(frames),
            Payload::TypeSection(s) => self.types += u64::from(s.count()),
            Payload::ImportSection(s) => self.links += u64::from(s.count()),
            Payload::ExportSection(s) => self.links += u64::from(s.count()),
            Payload::FunctionSection(s) => self.functions += u64::from(s.count()),
            Payload::CodeSectionEntry(body) => {
                self.largest_function = self.largest_function.max(body.as_bytes().len() as u64);
            }
            Payload::MemorySection(s) => {
                for memory in s {
                    self.memories += 1;
                    let memory = memory.map_err(|e| unreadable(&e))?;
                    self.initial_pages = self.initial_pages.saturating_add(memory.initial);
                }
            }
            Payload::TableSection(s) => {
                for table in s {
                    self.tables += 1;
                    let table = table.map_err(|e| unreadable(&e))?;
                    self.initial_elements = self.initial_elements.saturating_add(table.ty.initial);
                }
            }
            Payload::GlobalSection(s) => self.globals += u64::from(s.count()),
            Payload::ElementSection(s) => self.segments += u64::from(s.count()),
            Payload::DataSection(s) => self.segments += u64::from(s.count()),
            Payload::CoreTypeSection(s) => self.types += u64::from(s.count()),
            Payload::ComponentAliasSection(s) => {
                self.links += u64::from(s.count());
                for alias in s {
                    self.alias(&alias.map_err(|e| unreadable(&e))?);
                }
            }
            Payload::ComponentCanonicalSection(s) => self.links += u64::from(s.count()),
            Payload::ComponentStartSection { .. } => self.component_starts += 1,
            Payload::ComponentTypeSection(s) => {
                for ty in s {
                    self.types = self.types.saturating_add(weight(&ty.map_err(|e| unreadable(&e))?));
                }
            }
            Payload::InstanceSection(s) => {
                for instance in s {
                    if let Instance::Instantiate { .. } = instance.map_err(|e| unreadable(&e))? {
                        count(frames, |frame| frame.core_instances += 1);
                    }
                }
            }
            Payload::ComponentInstanceSection(s) => {
                for instance in s {
                    if let ComponentInstance::Instantiate { .. } = instance.map_err(|e| unreadable(&e))? {
                        count(frames, |frame| frame.component_instances += 1);
                    }
                }
            }
            Payload::ComponentImportSection(s) => {
                self.links += u64::from(s.count());
                for import in s {
                    let import = import.map_err(|e| unreadable(&e))?;
                    self.import(import.name.name, import.ty, frames.len());
                }
            }
            Payload::ComponentExportSection(s) => {
                self.links += u64::from(s.count());
                for export in s {
                    let export = export.map_err(|e| unreadable(&e))?;
                    if frames.len() == 1 && self.exports.len() < MAX_NAMES {
                        self.exports.push(named(export.name.name, export.kind));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, encoding: Encoding, frames: &mut Vec<Frame>) -> Result<(), AdmissionError> {
        match (encoding, frames.is_empty()) {
            (Encoding::Module, true) => return Err(AdmissionError::NotAComponent("it is a core module".to_owned())),
            (Encoding::Component, true) => {}
            (Encoding::Module, false) => self.modules += 1,
            (Encoding::Component, false) => {
                self.components += 1;
                self.depth = self.depth.max(frames.len() as u64);
            }
        }
        frames.push(Frame::default());
        Ok(())
    }

    /// An inner component can be named only by what is defined after it, and never arrives as an argument
    /// or inside of an instance. So no path of instantiations meets a component twice, and the product
    /// of all numbers of instantiations, each plus one, bounds what unfolds.
    fn close(&mut self, frames: &mut Vec<Frame>) {
        if let Some(frame) = frames.pop() {
            self.most_core_instances = self.most_core_instances.max(frame.core_instances);
            self.unfolded = self.unfolded.saturating_mul(frame.component_instances.saturating_add(1));
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        if let ComponentAlias::InstanceExport { kind, name, .. } = alias {
            let kind = match kind {
                ComponentExternalKind::Module => "the core module",
                ComponentExternalKind::Component => "the component",
                _ => return,
            };
            self.inner_import.get_or_insert_with(|| (kind, bounded(name)));
        }
    }

    fn import(&mut self, name: &str, ty: ComponentTypeRef, depth: usize) {
        let kind = match ty {
            ComponentTypeRef::Module(_) => Some("the core module"),
            ComponentTypeRef::Component(_) => Some("the component"),
            _ => None,
        };
        if depth == 1 {
            if self.imports.len() < MAX_NAMES {
                self.imports.push(named(name, ty.kind()));
            }
        } else if let Some(kind) = kind {
            self.inner_import.get_or_insert_with(|| (kind, bounded(name)));
        }
    }
}

fn count(frames: &mut [Frame], add: impl FnOnce(&mut Frame)) {
    if let Some(frame) = frames.last_mut() {
        add(frame);
    }
}

/// Worlds are made of instances; anything else is shown with its kind, and no world has such a name.
fn named(name: &str, kind: ComponentExternalKind) -> String {
    match kind {
        ComponentExternalKind::Instance => bounded(name),
        other => format!("{} ({})", bounded(name), other.desc()),
    }
}

/// A type, and what is declared inside of it.
fn weight(ty: &ComponentType<'_>) -> u64 {
    match ty {
        ComponentType::Component(declarations) => 1 + declarations.len() as u64,
        ComponentType::Instance(declarations) => {
            1 + declarations
                .iter()
                .map(|d| match d {
                    InstanceTypeDeclaration::Type(inner) => weight(inner),
                    _ => 1,
                })
                .fold(0, u64::saturating_add)
        }
        ComponentType::Defined(_) | ComponentType::Func(_) | ComponentType::Resource { .. } => 1,
    }
}

fn unreadable(error: &wasmparser::BinaryReaderError) -> AdmissionError {
    AdmissionError::NotAComponent(bounded(&error.to_string()))
}

/// Types inside of types are read recursively, by this crate's parser and by the engine's: some 10,000
/// levels would overflow the stack and end the process. Each level needs one of two bytes, so counting
/// those bytes bounds the depth without reading anything.
fn check_nesting(bytes: &[u8], range: Range<u64>) -> Result<(), AdmissionError> {
    let position = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let section = bytes.get(position(range.start)..position(range.end)).unwrap_or(bytes);
    let found = section.iter().filter(|byte| matches!(byte, 0x41 | 0x42)).count() as u64;
    if found > MAX_OPENINGS {
        return Err(AdmissionError::TooMany {
            what: "types inside of types in one section",
            found,
            limit: MAX_OPENINGS,
        });
    }
    Ok(())
}
