//! create, update, patch and delete: read, let the registry decide, compare and swap, answer.

use std::sync::Arc;

use axum::body::Bytes;
use http::Response;
use sealane_api::defaults::pod_admission;
use sealane_api::document::{items, text};
use sealane_api::kinds::by_kind;
use sealane_api::managed::{self, Writer};
use sealane_api::patch::{self, PatchKind};
use sealane_api::validation::options;
use sealane_api::{Kind, Object, Status, decode, time, yaml};
use sealane_registry::{
    Claim, Context, DeleteOptions, Deletion, Expect, Part, Txn, Write, delete as decide, escalation,
    finalized, replace, services, stored,
};
use sealane_store::{Revision, StoreError};
use serde_json::{Value, json};

use crate::answer::{self, Answer};
use crate::cache::{Entry, Listing};
use crate::call::Call;
use crate::negotiate;
use crate::reading;
use crate::shared::{Shared, now, random};

/// How often a write is tried again that somebody else's came before.
const ATTEMPTS: usize = 16;
/// Largest value that is stored, in bytes: etcd's limit for a request.
const OBJECT_MAX: usize = 1_572_864;

/// What becomes of a document that a write made.
pub(crate) struct Written {
    pub entry: Arc<Entry>,
    pub created: bool,
}

/// Whether the query says `dryRun=All`.
pub(crate) fn dry_run(call: &Call) -> bool {
    !call.query.all("dryRun").is_empty()
}

/// Checks the options of a create, update or patch.
fn check_options(call: &Call, kind: &str, apply: bool) -> Result<(), Status> {
    let dry_run = call.query.all("dryRun");
    let write = options::Write {
        dry_run: &dry_run,
        field_manager: call.query.get("fieldManager"),
        field_validation: call.query.get("fieldValidation"),
        apply,
    };
    let errors = options::write(write);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid_of("meta.k8s.io", kind, "", &errors)) }
}

/// What `fieldValidation` makes of unknown and repeated fields: a refusal, warnings, or nothing.
fn judge(call: &Call, kind: &Kind, problems: Vec<String>, warnings: &mut Vec<String>) -> Result<(), Status> {
    match call.query.get("fieldValidation") {
        "Ignore" => {}
        "Strict" if !problems.is_empty() => {
            let (what, version) = (kind.kind, kind.version);
            return Err(Status::bad_request(format!(
                "{what} in version {version:?} cannot be handled as a {what}: strict decoding error: {}",
                problems.join(", ")
            )));
        }
        _ => warnings.extend(problems),
    }
    Ok(())
}

/// The answer of a write, its warnings in the headers whether it was done or refused.
fn finish(result: Answer, warnings: &[String], call: &Call) -> Answer {
    if warnings.is_empty() {
        return result;
    }
    let format = call.format(false).unwrap_or(negotiate::Format::Json);
    let mut response: Response<_> = result.unwrap_or_else(|status| answer::refusal(&status, format));
    answer::warn(response.headers_mut(), warnings.iter().map(String::as_str));
    Ok(response)
}

/// Refuses who would grant more than they hold.
fn check_grant(call: &Call, kind: &Kind, new: &Value, old: Option<&Object>) -> Result<(), Status> {
    let written = (call.namespace(), new, old.map(Object::value));
    call.shared.with_rules(|rules| escalation::check(rules, &call.user, kind, written))
}

async fn commit(shared: &Shared, txn: Txn) -> Result<Revision, StoreError> {
    let revision = shared.backend.commit(txn).await?;
    // Read your writes: the answer comes when the cache has it.
    shared.cache.shows(revision).await;
    Ok(revision)
}

/// The entry of a document that was stored under a revision: the cache's own where it still is that one.
fn entry(shared: &Shared, kind: &'static Kind, mut document: Value, revision: Revision) -> Arc<Entry> {
    let meta = &document["metadata"];
    if let Some(found) = shared.cache.get(kind, text(&meta["namespace"]), text(&meta["name"]))
        && found.object.revision() == revision
    {
        return found;
    }
    document["metadata"]["resourceVersion"] = json!(revision.to_string());
    Entry::of(document)
}

fn sized(kind: &'static Kind, document: &Value) -> Result<Bytes, Status> {
    let bytes = stored(kind, document);
    if bytes.len() <= OBJECT_MAX {
        return Ok(bytes);
    }
    let message = format!("Request entity too large: limit is {OBJECT_MAX}");
    Err(Status::new(413, "RequestEntityTooLarge", message))
}

/// What a create may know of other objects.
struct Surroundings {
    namespace: Option<Arc<Entry>>,
    account: Option<Arc<Entry>>,
    node: Option<Arc<Entry>>,
    families: &'static [&'static str],
}

impl Surroundings {
    fn of(shared: &Shared, kind: &Kind, body: &Value, namespace: &str) -> Self {
        let find = |what: &str, namespace: &str, name: &str| {
            by_kind("v1", what).and_then(|row| shared.cache.get(row, namespace, name))
        };
        let (mut account, mut node) = (None, None);
        if kind.kind == "Pod" {
            account = find("ServiceAccount", namespace, pod_admission::account_name(body));
            node = find("Node", "", text(&body["spec"]["nodeName"]));
        }
        let namespace = if kind.namespaced() { find("Namespace", "", namespace) } else { None };
        Surroundings { namespace, account, node, families: shared.config.ranges.families() }
    }

    fn context<'a>(&'a self, manager: &'a str) -> Context<'a> {
        Context {
            now: now(),
            uid: random(),
            suffix: random(),
            manager,
            families: self.families,
            namespace: self.namespace.as_ref().map(|e| &e.object),
            service_account: self.account.as_ref().map(|e| &e.object),
            node: self.node.as_ref().map(|e| &e.object),
        }
    }
}

fn allocate(
    shared: &Shared,
    kind: &Kind,
    document: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<Claim>, Status> {
    if kind.kind != "Service" {
        return Ok(Vec::new());
    }
    let random = u64::from_ne_bytes(random());
    services::allocate(kind, document, old, &mut shared.allocations(), random)
}

/// Stores a new object.
pub(crate) async fn insert(
    shared: &Shared,
    kind: &'static Kind,
    body: Value,
    namespace: &str,
    manager: &str,
    dry_run: bool,
) -> Result<Arc<Entry>, Status> {
    if !dry_run && !text(&body["metadata"]["resourceVersion"]).is_empty() {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let generated = text(&body["metadata"]["name"]).is_empty();
    let around = Surroundings::of(shared, kind, &body, namespace);
    for attempt in 1.. {
        let mut document = sealane_registry::create(kind, body.clone(), namespace, &around.context(manager))?;
        if dry_run && let Some(version) = body["metadata"].get("resourceVersion") {
            // What is not stored is not compared: it stays as it was sent.
            document["metadata"]["resourceVersion"] = version.clone();
        }
        let taken = allocate(shared, kind, &mut document, None)?;
        let name = text(&document["metadata"]["name"]).to_owned();
        let exists = shared.cache.get(kind, namespace, &name).is_some();
        let result = if exists {
            Err(None)
        } else if dry_run {
            Ok(Entry::of(document))
        } else {
            store_new(shared, kind, namespace, &name, document).await
        };
        if dry_run || result.is_err() {
            shared.allocations().release(&taken);
        }
        match result {
            Ok(entry) => return Ok(entry),
            Err(Some(status)) => return Err(status),
            Err(None) if generated && attempt < ATTEMPTS => {}
            Err(None) => return Err(Status::already_exists(kind, &name)),
        }
    }
    Err(Status::already_exists(kind, ""))
}

/// `Err(None)`: the name is taken.
async fn store_new(
    shared: &Shared,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    document: Value,
) -> Result<Arc<Entry>, Option<Status>> {
    let key = kind.storage().key(namespace, name);
    let value = sized(kind, &document).map_err(Some)?;
    let txn = Txn { checks: vec![(key.clone(), Expect::Absent)], writes: vec![(key, Write::Put(value))] };
    match commit(shared, txn).await {
        Ok(revision) => Ok(entry(shared, kind, document, revision)),
        Err(StoreError::Conflict { .. }) => Err(None),
        Err(e) => Err(Some(answer::store_failed(&e))),
    }
}

/// Reads an object, lets `change` make a new version of it, and stores that; tries again where somebody else came
/// before. `None` changes nothing.
pub(crate) async fn modify(
    shared: &Shared,
    kind: &'static Kind,
    (namespace, name): (&str, &str),
    dry_run: bool,
    mut change: impl FnMut(&Object) -> Result<Option<Value>, Status>,
) -> Result<Arc<Entry>, Status> {
    for _ in 0..ATTEMPTS {
        let Some(old) = shared.cache.get(kind, namespace, name) else {
            return Err(Status::not_found(kind, name));
        };
        let Some(mut document) = change(&old.object)? else { return Ok(old) };
        let taken = allocate(shared, kind, &mut document, Some(old.object.value()))?;
        if dry_run {
            shared.allocations().release(&taken);
            return Ok(Entry::of(document));
        }
        let gone = finalized(&document);
        let result = match if gone { Ok(Write::Delete) } else { sized(kind, &document).map(Write::Put) } {
            Ok(write) => write_over(shared, kind, &old.object, write).await,
            Err(status) => Err(status),
        };
        match result {
            Ok(Some(revision)) => {
                if kind.kind == "Service" {
                    let before = old.object.value();
                    let free =
                        if gone { services::claims(before) } else { services::dropped(before, &document) };
                    shared.allocations().release(&free);
                }
                return Ok(entry(shared, kind, document, revision));
            }
            Ok(None) => shared.allocations().release(&taken),
            Err(status) => {
                shared.allocations().release(&taken);
                return Err(status);
            }
        }
    }
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    Err(Status::conflict(kind, name, why))
}

/// `None`: somebody else wrote in between; the cache shows it by now.
async fn write_over(
    shared: &Shared,
    kind: &'static Kind,
    old: &Object,
    write: Write,
) -> Result<Option<Revision>, Status> {
    let key = kind.storage().key(old.namespace(), old.name());
    let txn =
        Txn { checks: vec![(key.clone(), Expect::Revision(old.revision()))], writes: vec![(key, write)] };
    match commit(shared, txn).await {
        Ok(revision) => Ok(Some(revision)),
        Err(StoreError::Conflict { .. }) => {
            shared.cache.shows(shared.backend.revision()).await;
            Ok(None)
        }
        Err(e) => Err(answer::store_failed(&e)),
    }
}

pub(crate) async fn create(call: &Call, kind: &'static Kind, body: Bytes) -> Answer {
    let format = call.format(true)?;
    check_options(call, "CreateOptions", false)?;
    let mut warnings = Vec::new();
    let result = async {
        let document = decoded(call, kind, &body, &mut warnings)?;
        check_grant(call, kind, &document, None)?;
        let made =
            insert(&call.shared, kind, document, call.namespace(), call.manager(), dry_run(call)).await?;
        warnings.extend((kind.warnings)(made.object.value(), None));
        Ok(answer::object(201, kind, &made, format))
    };
    let result = result.await;
    finish(result, &warnings, call)
}

fn decoded(call: &Call, kind: &Kind, body: &[u8], warnings: &mut Vec<String>) -> Result<Value, Status> {
    let format = negotiate::body_format(&call.parts.headers)?;
    let (document, problems) = decode::body(kind, body, format)?;
    judge(call, kind, problems, warnings)?;
    Ok(document)
}

/// The document's name must be the path's.
fn check_name(document: &Value, name: &str) -> Result<(), Status> {
    let given = text(&document["metadata"]["name"]);
    if given.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: resource name may not be empty"
        )));
    }
    if given == name {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the name of the object ({given}) does not match the name on the URL ({name})"
    )))
}

pub(crate) async fn update(call: &Call, kind: &'static Kind, body: Bytes) -> Answer {
    update_part(call, kind, Part::Whole, body).await
}

/// PUT of an object, or of a part of it.
pub(crate) async fn update_part(call: &Call, kind: &'static Kind, part: Part, body: Bytes) -> Answer {
    let format = call.format(true)?;
    check_options(call, "UpdateOptions", false)?;
    let mut warnings = Vec::new();
    let result = async {
        let document = decoded(call, kind, &body, &mut warnings)?;
        let name = &call.path.name;
        check_name(&document, name)?;
        let dry_run = dry_run(call);
        let place = (call.namespace(), name.as_str());
        if part == Part::Whole
            && kind.create_on_update
            && call.shared.cache.get(kind, place.0, place.1).is_none()
        {
            check_grant(call, kind, &document, None)?;
            let made = insert(&call.shared, kind, document, place.0, call.manager(), dry_run).await?;
            return Ok(answer::object(201, kind, &made, format));
        }
        let mut noted = Vec::new();
        let at = time::format(now());
        let by = writer(call, part, &at);
        let made = modify(&call.shared, kind, place, dry_run, |old| {
            let new = replace(kind, part, document.clone(), old, Some(&by))?;
            if let Some(new) = &new {
                check_grant(call, kind, new, Some(old))?;
                noted = (kind.warnings)(new, Some(old.value()));
            }
            Ok(new)
        });
        let made = made.await?;
        warnings.extend(noted);
        Ok(answer::object(200, kind, &made, format))
    };
    let result = result.await;
    finish(result, &warnings, call)
}

pub(crate) async fn patch(call: &Call, kind: &'static Kind, body: Bytes) -> Answer {
    patch_part(call, kind, Part::Whole, body).await
}

/// The patch's language by its content type.
pub(crate) fn patch_kind(call: &Call) -> Result<PatchKind, Status> {
    let given =
        call.parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    PatchKind::of(given).ok_or_else(|| {
        let mut status = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
        status.details = json!({});
        status
    })
}

/// Refusals of patches carry empty details.
fn generic(mut status: Status) -> Status {
    if status.code == 422 && status.details.is_null() {
        status.details = json!({});
    }
    status
}

/// PATCH of an object, or of a part of it.
pub(crate) async fn patch_part(call: &Call, kind: &'static Kind, part: Part, body: Bytes) -> Answer {
    let format = call.format(true)?;
    let language = patch_kind(call)?;
    check_options(call, "PatchOptions", language == PatchKind::Apply)?;
    let mut warnings = Vec::new();
    let result = async {
        let place = (call.namespace(), call.path.name.as_str());
        let written = if language == PatchKind::Apply {
            apply(call, kind, part, &body, &mut warnings).await?
        } else {
            let mut noted = Vec::new();
            let at = time::format(now());
            let by = writer(call, part, &at);
            let entry = modify(&call.shared, kind, place, dry_run(call), |old| {
                let new = patch::apply(kind, language, old.value(), &body).map_err(generic)?;
                patched(call, kind, (part, Some(&by)), new, old, &mut noted)
            });
            let entry = entry.await?;
            warnings.extend(noted);
            Written { entry, created: false }
        };
        let code = if written.created { 201 } else { 200 };
        Ok(answer::object(code, kind, &written.entry, format))
    };
    let result = result.await;
    finish(result, &warnings, call)
}

/// Who owns what this request changes.
fn writer<'a>(call: &'a Call, part: Part, now: &'a str) -> Writer<'a> {
    let subresource = match part {
        Part::Whole => "",
        Part::Status => "status",
        Part::Finalizers => "finalize",
    };
    Writer { manager: call.manager(), subresource, now }
}

/// The new version of an object from what a patch made of it.
fn patched(
    call: &Call,
    kind: &'static Kind,
    (part, by): (Part, Option<&Writer<'_>>),
    mut new: Value,
    old: &Object,
    warnings: &mut Vec<String>,
) -> Result<Option<Value>, Status> {
    warnings.clear();
    let mut problems = Vec::new();
    let shown = new.to_string();
    decode::conform(kind, &mut new, &mut problems).map_err(|status| {
        let why = status
            .message
            .rsplit_once(&format!("cannot be handled as a {}: ", kind.kind))
            .map(|(_, why)| why);
        let path = sealane_api::field::Path::root("patch");
        let why = why.unwrap_or(&status.message);
        let error = sealane_api::field::FieldError::invalid(&path, &json!(shown), why);
        Status::invalid_of("", "", "", &vec![error])
    })?;
    judge(call, kind, problems, warnings)?;
    check_name(&new, old.name())?;
    let new = replace(kind, part, new, old, by)?;
    if let Some(new) = &new {
        check_grant(call, kind, new, Some(old))?;
        warnings.extend((kind.warnings)(new, Some(old.value())));
    }
    Ok(new)
}

/// Server-side apply: what is applied is created where it is missing, and merged into what others own where it is
/// there.
async fn apply(
    call: &Call,
    kind: &'static Kind,
    part: Part,
    body: &[u8],
    warnings: &mut Vec<String>,
) -> Result<Written, Status> {
    let (document, problems) = decode::body(kind, body, decode::Format::Yaml)?;
    judge(call, kind, problems, warnings)?;
    let name = call.path.name.as_str();
    check_name(&document, name)?;
    let place = (call.namespace(), name);
    let at = time::format(now());
    let by = writer(call, part, &at);
    let force = call.query.flag("force") == Some(true);
    if part == Part::Whole && call.shared.cache.get(kind, place.0, place.1).is_none() {
        let new = managed::apply(kind, None, &document, &by, force)?;
        check_grant(call, kind, &new, None)?;
        let entry = insert(&call.shared, kind, new, place.0, "", dry_run(call)).await?;
        return Ok(Written { entry, created: true });
    }
    let mut noted = Vec::new();
    let entry = modify(&call.shared, kind, place, dry_run(call), |old| {
        let new = managed::apply(kind, Some(old.value()), &document, &by, force)?;
        patched(call, kind, (part, None), new, old, &mut noted)
    });
    let entry = entry.await?;
    warnings.extend(noted);
    Ok(Written { entry, created: false })
}

/// The options of a delete: the body's, or the query's where there is no body.
pub(crate) fn delete_options(call: &Call, body: &[u8]) -> Result<Value, Status> {
    let unreadable = |e: String| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type DeleteOptions): {e}"
        ))
    };
    let mut document = if body.is_empty() {
        json!({})
    } else {
        match negotiate::body_format(&call.parts.headers)? {
            decode::Format::Json => decode::any_json(body).map_err(unreadable)?,
            decode::Format::Yaml => yaml::parse(&String::from_utf8_lossy(body)).map_err(unreadable)?,
            decode::Format::Protobuf => {
                sealane_api::protobuf::decode(body).map_err(|e| unreadable(e.to_string()))?
            }
        }
    };
    if !document.is_object() {
        document = json!({});
    }
    let query = &call.query;
    if let Ok(grace) = query.get("gracePeriodSeconds").parse::<i64>() {
        document["gracePeriodSeconds"] = json!(grace);
    }
    if query.has("propagationPolicy") {
        document["propagationPolicy"] = json!(query.get("propagationPolicy"));
    }
    if let Some(orphan) = query.flag("orphanDependents") {
        document["orphanDependents"] = json!(orphan);
    }
    if query.has("dryRun") {
        document["dryRun"] = json!(query.all("dryRun"));
    }
    let errors = options::delete(&document);
    if errors.is_empty() {
        Ok(document)
    } else {
        Err(Status::invalid_of("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}

/// What a delete left.
pub(crate) enum Left {
    /// Nothing; the last version.
    Gone(Arc<Entry>),
    /// An object that goes later.
    Marked(Arc<Entry>),
}

/// Deletes one object.
pub(crate) async fn remove(
    shared: &Shared,
    kind: &'static Kind,
    (namespace, name): (&str, &str),
    options: &Value,
) -> Result<Left, Status> {
    if kind.kind == "Namespace" && matches!(name, "default" | "kube-system" | "kube-public") {
        return Err(Status::forbidden(kind, name, "this namespace may not be deleted"));
    }
    let wish = DeleteOptions::from_document(options);
    let dry_run = !items(&options["dryRun"]).is_empty();
    for _ in 0..ATTEMPTS {
        let Some(old) = shared.cache.get(kind, namespace, name) else {
            return Err(Status::not_found(kind, name));
        };
        let context = Context { now: now(), ..Context::default() };
        let (write, document) = match decide(kind, &old.object, &wish, &context)? {
            Deletion::Pending => return Ok(Left::Marked(old)),
            Deletion::Now => (Write::Delete, last_words(kind, &old.object)),
            Deletion::Marked(document) => (Write::Put(sized(kind, &document)?), document),
        };
        let gone = write == Write::Delete;
        let left = |entry| if gone { Left::Gone(entry) } else { Left::Marked(entry) };
        if dry_run {
            return Ok(left(Entry::of(document)));
        }
        let Some(revision) = write_over(shared, kind, &old.object, write).await? else { continue };
        if gone {
            if kind.kind == "Service" {
                shared.allocations().release(&services::claims(old.object.value()));
            }
            return Ok(Left::Gone(Entry::of(document)));
        }
        return Ok(left(entry(shared, kind, document, revision)));
    }
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    Err(Status::conflict(kind, name, why))
}

/// The last version of an object as its deleter sees it: a Pod is shown as ending now.
fn last_words(kind: &Kind, old: &Object) -> Value {
    let mut last = old.to_value();
    if kind.kind == "Pod" {
        let meta = &mut last["metadata"];
        if meta["deletionGracePeriodSeconds"] != 0 {
            meta["deletionTimestamp"] = json!(time::format(now()));
            meta["deletionGracePeriodSeconds"] = json!(0);
            if let Some(generation) = meta["generation"].as_i64() {
                meta["generation"] = json!(generation + 1);
            }
        }
    }
    last
}

/// Kinds whose last version a delete answers with (`ReturnDeletedObject`); others get a Status.
fn shows_last(kind: &Kind) -> bool {
    kind.group.is_empty() && matches!(kind.kind, "Pod" | "Service" | "ServiceAccount")
}

pub(crate) async fn delete(call: &Call, kind: &'static Kind, body: Bytes) -> Answer {
    let format = call.format(true)?;
    let options = delete_options(call, &body)?;
    let name = call.path.name.as_str();
    match remove(&call.shared, kind, (call.namespace(), name), &options).await? {
        Left::Gone(last) if !shows_last(kind) => {
            Ok(answer::document(200, &answer::success(kind, name, last.object.uid()), format))
        }
        Left::Gone(last) => Ok(answer::object(200, kind, &last, format)),
        Left::Marked(entry) => Ok(answer::object(200, kind, &entry, format)),
    }
}

pub(crate) async fn delete_collection(call: &Call, kind: &'static Kind, body: Bytes) -> Answer {
    let format = call.format(true)?;
    let options = delete_options(call, &body)?;
    let selection = reading::selection(call, kind)?;
    let mut listing = call.shared.cache.list(kind, call.namespace());
    listing.entries.retain(|e| selection.has(e));
    let mut left = Vec::with_capacity(listing.entries.len());
    for entry in &listing.entries {
        let place = (entry.object.namespace(), entry.object.name());
        match remove(&call.shared, kind, place, &options).await {
            Ok(Left::Gone(last) | Left::Marked(last)) => left.push(last),
            // Somebody else was quicker.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let metadata = json!({"resourceVersion": listing.revision.to_string()});
    let listing = Listing { entries: left, revision: listing.revision };
    Ok(answer::list(kind, &listing, &metadata, format))
}
