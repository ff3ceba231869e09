//! `errors`: a line in the log for each query that failed, or one for many (`plugin/errors`).

use std::time::Duration;

use regex::Regex;

use crate::chain::args::{duration, err, no_more, unknown};
use crate::chain::values::go_duration;
use crate::chain::{Ask, Context, Failure, Note, Passage, Plugin, Query, Setup, Up};
use crate::corefile::{CorefileError, Directive};
use crate::message::rtype;

/// Longest expression in octets.
const LONGEST: usize = 10_000;

/// `errors`
#[derive(Debug)]
pub struct Errors {
    patterns: Vec<Pattern>,
    /// `debug` is on: lines of that level are written.
    debug: bool,
    stopped: bool,
}

/// `consolidate DURATION REGEXP [LEVEL] [show_first]`
#[derive(Debug)]
struct Pattern {
    period: Duration,
    regex: Regex,
    /// `ERROR`
    level: &'static str,
    show_first: bool,
    /// How many since when.
    seen: Option<(u32, Duration)>,
}

/// `errors [stdout] { stacktrace | consolidate DURATION REGEXP [LEVEL] [show_first] }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    // `errors stdout` is an old way to write it.
    let old = d.args.first().is_some_and(|t| t.text == "stdout");
    no_more("errors", if old { &d.args[1..] } else { &d.args })?;
    let mut patterns = Vec::new();
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "stacktrace" => {
                no_more("stacktrace", &option.args)?;
                setup.settings.stacktrace = true;
            }
            "consolidate" => patterns.push(pattern(option)?),
            _ => return unknown("errors", option),
        }
    }
    let debug = setup.settings.debug;
    setup.add(Errors { patterns, debug, stopped: false });
    Ok(())
}

fn pattern(option: &Directive) -> Result<Pattern, CorefileError> {
    let [period, expression, rest @ ..] = option.args.as_slice() else {
        return err(&option.name, "'consolidate' needs a duration and an expression");
    };
    if expression.text.len() > LONGEST {
        return err(expression, format!("an expression has at most {LONGEST} characters"));
    }
    let regex = Regex::new(&expression.text).or_else(|why| {
        let why = why.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        err(expression, format!("'{}' is no regular expression: {why}", expression.text))
    })?;
    let (mut level, mut show_first) = (None, false);
    for token in rest {
        let named = match token.text.as_str() {
            "warning" => "WARNING",
            "error" => "ERROR",
            "info" => "INFO",
            "debug" => "DEBUG",
            "show_first" if !show_first => {
                show_first = true;
                continue;
            }
            other => {
                let message =
                    format!("'{other}' is neither a level (warning, error, info, debug) nor show_first");
                return err(token, message);
            }
        };
        if level.is_some() || show_first {
            return err(token, "one level stands before show_first");
        }
        level = Some(named);
    }
    let level = level.unwrap_or("ERROR");
    Ok(Pattern { period: duration(period)?, regex, level, show_first, seen: None })
}

impl Pattern {
    /// Counts an error; whether that is all.
    fn count(&mut self, now: Duration) -> bool {
        match &mut self.seen {
            Some((count, _)) => {
                *count += 1;
                true
            }
            None => {
                self.seen = Some((1, now));
                !self.show_first
            }
        }
    }

    /// What is to be said at the end of the time.
    fn summary(&mut self) -> Option<String> {
        let (count, _) = self.seen.take()?;
        // One that was shown needs no summary.
        let said = count == 1 && self.show_first;
        let (regex, period) = (self.regex.as_str(), go_duration(self.period));
        (!said).then(|| format!("{count} errors like '{regex}' occurred in last {period}"))
    }
}

impl Errors {
    fn log(&self, level: &str, text: &str, cx: &mut Context<'_>) {
        if level != "DEBUG" || self.debug {
            cx.log(format!("[{level}] plugin/errors: {text}"));
        }
    }

    fn summarize(&mut self, cx: &mut Context<'_>, over: impl Fn(Duration, Duration) -> bool) {
        let due = |pattern: &mut Pattern| {
            let over = pattern.seen.is_some_and(|(_, since)| over(since, pattern.period));
            Some((pattern.level, over.then(|| pattern.summary()).flatten()?))
        };
        let lines: Vec<_> = self.patterns.iter_mut().filter_map(due).collect();
        for (level, line) in lines {
            self.log(level, &line, cx);
        }
    }
}

impl Plugin for Errors {
    fn passage(&self) -> Passage {
        Passage::Open
    }

    fn failed(&mut self, query: &mut Query, _: &mut Note, failure: &Failure, cx: &mut Context<'_>) -> Up {
        let Some(why) = &failure.why else { return Up::Pass };
        let mut level = "ERROR";
        if let Some(pattern) = self.patterns.iter_mut().find(|pattern| pattern.regex.is_match(why)) {
            if !self.stopped && pattern.count(cx.now.monotonic) {
                return Up::Pass;
            }
            level = pattern.level;
        }
        let question = query.question();
        let (name, kind) = (question.name.to_lowercase(), rtype::name(question.rtype));
        self.log(level, &format!("{} {name} {kind}: {why}", failure.rcode), cx);
        Up::Pass
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        let now = cx.now.monotonic;
        self.summarize(cx, |since, period| now.saturating_sub(since) >= period);
        Vec::new()
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        self.stopped = true;
        self.summarize(cx, |_, _| true);
    }
}
