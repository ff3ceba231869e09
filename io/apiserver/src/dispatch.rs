//! From a request to who asks, what they ask for, whether they may, and who answers.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sealane_api::columns::Include;
use sealane_api::kinds::Subresource;
use sealane_api::{Kind, Status};
use sealane_registry::rbac::User;

use crate::answer::{self, Answer};
use crate::call::Call;
use crate::negotiate::{self, Format};
use crate::request::{Query, ResourcePath, Target, resource_path};
use crate::shared::Shared;
use crate::{access, paths, reading, reviews, subresources, writing};

/// Largest body of a request, in bytes (`MaxRequestBodyBytes`).
pub(crate) const BODY_MAX: usize = 3 * 1024 * 1024;

/// Answers any request.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Body>) -> Response<Body> {
    let begun = Instant::now();
    let method = request.method().clone();
    let path = resource_path(request.uri().path());
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let verb = path.as_ref().map_or("get", |p| p.verb(&method, &query));
    let format = negotiate::accepted(request.headers(), false, Include::default()).unwrap_or(Format::Json);
    let resource = path.as_ref().map(|p| (p.group.clone(), p.resource.clone(), p.subresource.clone()));
    let result = handle(Arc::clone(&shared), request, path, query, verb).await;
    let response = result.unwrap_or_else(|status| answer::refusal(&status, format));
    shared.metrics.count(verb, resource, response.status().as_u16(), begun.elapsed());
    response
}

async fn handle(
    shared: Arc<Shared>,
    request: Request<Body>,
    path: Option<ResourcePath>,
    query: Query,
    verb: &'static str,
) -> Answer {
    let user = access::authenticate(&shared, &request)?;
    let user = access::impersonate(&shared, user, request.headers())?;
    let Some(path) = path else {
        let (parts, _) = request.into_parts();
        access::authorize_path(&shared, &user, &parts)?;
        return paths::answer(&shared, &parts, &query);
    };
    access::authorize(&shared, &user, &path, verb, &query)?;
    let target = path.target();
    let Some(target) = target else {
        // A group that is not there at all is a page, a resource of one that is there a Status.
        let known = sealane_api::discovery::versions(&path.group).contains(&path.version.as_str());
        return if known { Err(answer::no_resource()) } else { Ok(answer::page_not_found()) };
    };
    let Target::Stored(kind, subresource) = target else {
        let Target::Answered(answered) = target else { return Err(answer::no_resource()) };
        if request.method() != Method::POST {
            return Err(answer::no_verb());
        }
        let (parts, body) = request.into_parts();
        let body = read(body).await?;
        let call = Call { shared, user, path, query, verb, parts };
        return reviews::answer(&call, answered, &body).await;
    };
    let deprecated = kind.deprecated.filter(|_| verb != "watch" || subresource.is_none());
    let mut answered = stored(shared, user, request, path, query, verb, (kind, subresource)).await;
    if let Some(warning) = deprecated {
        if let Err(status) = answered {
            answered = Ok(answer::refusal(&status, Format::Json));
        }
        if let Ok(response) = &mut answered {
            answer::warn(response.headers_mut(), [warning]);
        }
    }
    answered
}

async fn stored(
    shared: Arc<Shared>,
    user: User,
    request: Request<Body>,
    path: ResourcePath,
    query: Query,
    verb: &'static str,
    (kind, subresource): (&'static Kind, Option<Subresource>),
) -> Answer {
    let known = match subresource {
        Some(subresource) => subresource.verbs().contains(&verb),
        None => kind.allows(verb) && fits(kind, request.method(), &path),
    };
    if !known {
        return Err(answer::no_verb());
    }
    let streams = matches!(
        subresource,
        Some(Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Proxy)
    );
    if streams {
        return subresources::stream(shared, request, &path, &query, subresource).await;
    }
    let (parts, body) = request.into_parts();
    let call = Call { shared, user, path, query, verb, parts };
    if let Some(subresource) = subresource {
        let body = if verb == "get" { Bytes::new() } else { read(body).await? };
        return subresources::answer(&call, kind, subresource, body).await;
    }
    match verb {
        "get" => reading::get(&call, kind).await,
        "list" => reading::list(&call, kind).await,
        "watch" => reading::watch(&call, kind).await,
        "create" => writing::create(&call, kind, read(body).await?).await,
        "update" => writing::update(&call, kind, read(body).await?).await,
        "patch" => writing::patch(&call, kind, read(body).await?).await,
        "delete" => writing::delete(&call, kind, read(body).await?).await,
        "deletecollection" => writing::delete_collection(&call, kind, read(body).await?).await,
        _ => Err(answer::no_verb()),
    }
}

/// Whether a method goes with an object or a collection.
fn fits(kind: &Kind, method: &Method, path: &ResourcePath) -> bool {
    match *method {
        Method::POST => path.name.is_empty() && (!kind.namespaced() || !path.namespace.is_empty()),
        Method::PUT | Method::PATCH => !path.name.is_empty(),
        Method::GET | Method::HEAD => true,
        Method::DELETE => !path.name.is_empty() || !kind.namespaced() || !path.namespace.is_empty(),
        _ => false,
    }
}

/// The whole body.
async fn read(body: Body) -> Result<Bytes, Status> {
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {BODY_MAX}"),
        )),
        Err(e) => Err(Status::bad_request(format!("the body could not be read: {e}"))),
    }
}
