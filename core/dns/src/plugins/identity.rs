//! Who is asked, and who asks: `nsid`, `chaos` and `whoami`.

use crate::chain::args::{no_more, no_options};
use crate::chain::{Context, Flow, Note, Passage, Plugin, Query, Reply, Setup, Up, shuffle};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Edns, Message, Record, rtype};

/// EDNS option of name server identifiers (RFC 5001).
const NSID: u16 = 3;
/// Class CH (RFC 1035 section 3.2.4).
const CLASS_CH: u16 = 3;

/// `nsid [DATA...]`
#[derive(Debug)]
pub struct Nsid {
    /// `None`: the machine's name.
    data: Option<String>,
}

/// `nsid [DATA...]`
///
/// # Errors
/// What is wrong with the line.
pub fn nsid(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    let words: Vec<&str> = d.args.iter().map(|token| token.text.as_str()).collect();
    setup.add(Nsid { data: (!words.is_empty()).then(|| words.join(" ")) });
    Ok(())
}

impl Plugin for Nsid {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        let asked = query.request.edns.as_ref();
        if asked.is_some_and(|edns| edns.options.iter().any(|(code, _)| *code == NSID)) {
            let data: Box<[u8]> = self.data.as_deref().unwrap_or(cx.world.hostname()).as_bytes().into();
            let options = &mut reply.edns.get_or_insert_with(Edns::default).options;
            match options.iter_mut().find(|(code, _)| *code == NSID) {
                Some(option) => option.1 = data,
                None => options.push((NSID, data)),
            }
        }
        Up::Pass
    }
}

/// `chaos [VERSION] [AUTHORS...]`
#[derive(Debug)]
pub struct Chaos {
    version: Option<String>,
    authors: Vec<String>,
}

/// `chaos [VERSION] [AUTHORS...]`
///
/// # Errors
/// What is wrong with the line.
pub fn chaos(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    let mut words = d.args.iter().map(|token| token.text.clone());
    let version = words.next();
    let mut authors: Vec<String> = words.collect();
    if authors.is_empty() {
        authors.push("the authors of Sealane".to_owned());
    }
    authors.sort();
    authors.dedup();
    setup.settings.other_classes = true;
    setup.add(Chaos { version, authors });
    Ok(())
}

/// One string of a TXT record: 255 octets at most.
fn string(text: &str) -> Box<[u8]> {
    text.as_bytes()[..text.len().min(255)].into()
}

impl Plugin for Chaos {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) -> Flow {
        let question = query.question();
        if question.class != CLASS_CH || question.rtype != rtype::TXT {
            return Flow::Next;
        }
        let texts = match question.name.to_lowercase().to_string().as_str() {
            "authors.bind." => {
                let mut authors: Vec<_> = self.authors.iter().map(|author| string(author)).collect();
                shuffle(&mut authors, cx.random());
                authors
            }
            "version.bind." | "version.server." => match &self.version {
                Some(version) => vec![string(version)],
                None => vec![string(&format!("Sealane-{}", cx.world.version))],
            },
            "hostname.bind." | "id.server." => vec![string(cx.world.hostname())],
            _ => return Flow::Next,
        };
        let record =
            |text| Record { class: CLASS_CH, ..Record::new(question.name.clone(), 0, Data::Txt(vec![text])) };
        Flow::Reply(Message { answers: texts.into_iter().map(record).collect(), ..Message::default() })
    }
}

/// `whoami`
#[derive(Debug)]
pub struct Whoami;

/// `whoami`
///
/// # Errors
/// What is wrong with the line.
pub fn whoami(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    no_more("whoami", &d.args)?;
    setup.add(Whoami);
    Ok(())
}

impl Plugin for Whoami {
    fn down(&mut self, query: &mut Query, _: &mut Note, _: &mut Context<'_>) -> Flow {
        let question = query.question();
        let record = |name, data| Record { class: question.class, ..Record::new(name, 0, data) };
        // `_udp.` in front of the name, and the client's port.
        let service = question.name.under(&[&format!("_{}", query.transport.as_str())]);
        let port = Data::Srv(0, 0, query.client.port(), crate::name::Name::root());
        let additional =
            vec![record(question.name.clone(), Data::address(query.client.ip())), record(service, port)];
        Flow::Reply(Reply { additional, ..Reply::default() }.into())
    }
}
