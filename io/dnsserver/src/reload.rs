//! Another configuration takes over: what the one before has to answer is answered, and where the new one is wrong
//! nothing changes.

use std::pin::Pin;
use std::sync::Arc;

use sealane_dns::Config;
use sealane_dns::chain::Needs;

use crate::corefile::{self, Loaded, Look};
use crate::feed::{Feed, Feeding, Feeds};
use crate::listen::{Fresh, Listeners};
use crate::shared::Shared;
use crate::{DnsError, Settings, running};

/// Going over to the Corefile as it is now, where it is another one (`plugin/reload/reload.go`) or is asked for. Of
/// what the old one has to answer nothing is lost.
pub(crate) struct Reloads {
    /// The last one's hash: one that is wrong is tried once.
    tried: String,
    /// Of the configuration in force.
    needs: Needs,
    feed: Feed,
    under_way: Option<UnderWay>,
}

/// A configuration that is on its way in.
enum UnderWay {
    /// It needs what nobody has watched so far. Nothing is bound before that is there.
    Feeding(Look, Box<New>, Feeding),
    /// What came in by ports that go is answered by the old one, what waits at new ones by the new.
    Answering(Handover, Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// One with what it goes by.
pub(crate) struct New {
    loaded: Loaded,
    config: Config,
    /// Where it does not go on with the last one's.
    feeds: Option<Feeds>,
}

/// One that has what it needs, and its ports.
pub(crate) struct Handover {
    new: Box<New>,
    fresh: Fresh,
}

/// What comes next.
pub(crate) enum Step {
    Fed(Look, Box<New>, Result<Feeds, String>),
    Answered(Handover),
}

impl Reloads {
    /// From a configuration that runs.
    pub(crate) fn new(loaded: &Loaded, needs: Needs, feed: Feed) -> Self {
        Reloads { tried: loaded.fingerprint.clone(), needs, feed, under_way: None }
    }

    /// Whether none is on its way.
    pub(crate) fn idle(&self) -> bool {
        self.under_way.is_none()
    }

    pub(crate) fn begin(
        &mut self,
        settings: &Settings,
        look: Look,
        shared: &Arc<Shared>,
        listeners: &mut Listeners,
    ) {
        if look == Look::Asked {
            shared.log("[INFO] SIGUSR1: Reloading");
        }
        let texts = match corefile::texts(settings, None) {
            Ok(texts) if texts.fingerprint == self.tried && look == Look::Changed => return,
            Ok(texts) => texts,
            // What can't be read at all is known by what is said of it.
            Err(why) => return self.refuse(look, why.to_string(), &why, shared),
        };
        let fingerprint = texts.fingerprint.clone();
        let (loaded, config) = match corefile::compile(texts, settings) {
            Ok(new) => new,
            Err(why) => return self.refuse(look, fingerprint, &why, shared),
        };
        let (needs, new) = (config.needs(), Box::new(New { loaded, config, feeds: None }));
        if self.feed.lasts(&self.needs, &needs) {
            return self.bind(look, new, shared, listeners);
        }
        let feeding = self.feed.clone().begin(needs, shared.clone());
        self.under_way = Some(UnderWay::Feeding(look, new, Box::pin(feeding)));
    }

    /// One that waited for what it needs goes on, or does not.
    pub(crate) fn fed(
        &mut self,
        (look, mut new): (Look, Box<New>),
        feeds: Result<Feeds, String>,
        shared: &Arc<Shared>,
        listeners: &mut Listeners,
    ) {
        match feeds {
            Ok(feeds) => {
                new.feeds = Some(feeds);
                self.bind(look, new, shared, listeners);
            }
            Err(why) => self.refuse(look, new.loaded.fingerprint, &DnsError::Feed(why), shared),
        }
    }

    /// New ports are bound before anything else changes.
    fn bind(&mut self, look: Look, new: Box<New>, shared: &Arc<Shared>, listeners: &mut Listeners) {
        match listeners.bind(&new.loaded.blocks) {
            Ok(fresh) => {
                self.tried.clone_from(&new.loaded.fingerprint);
                shared.log("[INFO] Reloading");
                let answered = Box::pin(listeners.retire(&fresh));
                self.under_way = Some(UnderWay::Answering(Handover { new, fresh }, answered));
            }
            Err(why) => self.refuse(look, new.loaded.fingerprint, &why, shared),
        }
    }

    fn refuse(&mut self, look: Look, tried: String, why: &DnsError, shared: &Shared) {
        if self.tried == tried && look == Look::Changed {
            return;
        }
        self.tried = tried;
        shared.server(|server| server.reload_failed());
        shared.log(&match look {
            Look::Asked => format!("[ERROR] SIGUSR1: {why}"),
            Look::Changed => format!("[ERROR] plugin/reload: Corefile changed but reload failed: {why}"),
        });
    }

    /// Returns what the one on its way waited for. Dropped half way nothing is lost.
    pub(crate) async fn step(&mut self) -> Step {
        let fed = match &mut self.under_way {
            Some(UnderWay::Feeding(.., feeding)) => Some(feeding.await),
            Some(UnderWay::Answering(_, answered)) => {
                answered.await;
                None
            }
            None => None,
        };
        match (self.under_way.take(), fed) {
            (Some(UnderWay::Feeding(look, new, _)), Some(fed)) => Step::Fed(look, new, fed),
            (Some(UnderWay::Answering(next, _)), None) => Step::Answered(next),
            _ => std::future::pending().await,
        }
    }

    /// One takes over; where it has other feeds, those are returned, too.
    pub(crate) fn complete(
        &mut self,
        next: Handover,
        settings: &Settings,
        shared: &Arc<Shared>,
        listeners: &mut Listeners,
    ) -> (Loaded, Option<Feeds>) {
        let Handover { new, fresh } = next;
        let New { loaded, config, mut feeds } = *new;
        self.needs = config.needs();
        let now = shared.now();
        // In one step: no query meets the one without the other.
        let effects = shared.server(|server| {
            server.configure(config, now);
            feeds.as_mut().map(|feeds| feeds.instead(server, now))
        });
        effects.into_iter().flatten().for_each(|effect| shared.detach(effect));
        listeners.serve(shared, fresh);
        shared.running(settings, loaded.version());
        for line in loaded.warnings.iter().chain([&running(&loaded)]) {
            shared.log(line);
        }
        shared.log("[INFO] Reloading complete");
        (loaded, feeds)
    }
}
