//! Everything that is wrong with a Corefile, not the first thing alone: what is wrong is taken out, and the rest read
//! again.

use sealane_dns::corefile::{CorefileError, Directive, Position, parse};

use crate::corefile::{self, Texts};
use crate::{DnsError, Settings};

/// More are not looked for.
const MOST: usize = 100;

/// What is wrong with a Corefile, and with what it imports, in the order of its lines. `text` stands in for
/// the file, where it is given: then the file's name is for messages, and for where its imports are.
///
/// # Errors
/// Where files can't be read.
pub fn problems(settings: &Settings, text: Option<String>) -> Result<Vec<CorefileError>, DnsError> {
    let mut texts = match corefile::texts(settings, text) {
        Ok(texts) => texts,
        // Words that can't be read end the search.
        Err(DnsError::Corefile(error)) => return Ok(vec![error]),
        Err(other) => return Err(other),
    };
    let mut found: Vec<CorefileError> = Vec::new();
    while found.len() < MOST {
        let blocks = parse(&texts.name, &texts.text, &texts.sources);
        let error = match corefile::compile(texts.clone(), settings) {
            Ok(_) => break,
            Err(DnsError::Corefile(error)) => error,
            Err(other) => return Err(other),
        };
        let line = blocks.iter().flatten().find_map(|block| enclosing(&block.directives, &error.at)).cloned();
        // What is wrong with a whole block may come from what was taken out of it.
        if found.contains(&error) || line.is_none() && !found.is_empty() {
            break;
        }
        found.push(error);
        let Some(line) = line else { break };
        texts.remove(&line);
    }
    // As somebody reads them: the Corefile from its top, then what it imports.
    found.sort_by_key(|error| {
        let at = &error.at;
        (*at.file != *texts.name, at.file.clone(), at.line, at.column)
    });
    Ok(found)
}

/// The line, with its block where it has one, that `at` lies in; an option's before its plugin's.
fn enclosing<'a>(lines: &'a [Directive], at: &Position) -> Option<&'a Directive> {
    let line = lines.iter().find(|line| {
        let (start, end) = (line.at(), &line.end);
        start.file == at.file && (start.line, start.column) <= (at.line, at.column) && end.line >= at.line
    })?;
    Some(line.block.as_deref().and_then(|options| enclosing(options, at)).unwrap_or(line))
}

impl Texts {
    /// Blanks a line from its name to the end of its last line; the others stay where they are.
    fn remove(&mut self, line: &Directive) {
        let (start, end) = (line.at(), &line.end);
        let closes = line.block.is_some();
        let blank = |text: &mut String| {
            let blanked = text.split_inclusive('\n').zip(1u32..).map(|(content, number)| {
                let blanked = content.chars().zip(1u32..).map(|(c, column)| {
                    let inside = (start.line, start.column) <= (number, column)
                        && (number < end.line || number == end.line && (!closes || column <= end.column));
                    if inside && c != '\n' { ' ' } else { c }
                });
                blanked.collect::<String>()
            });
            *text = blanked.collect();
        };
        if *start.file == *self.name {
            blank(&mut self.text);
        }
        let files = self.sources.files.values_mut().flatten();
        files.filter(|(name, _)| **name == *start.file).for_each(|(_, text)| blank(text));
    }
}
