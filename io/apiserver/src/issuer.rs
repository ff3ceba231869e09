//! [`TokenIssuer`]: who signs ServiceAccount tokens.

use sealane_pki::{Pki, TokenError, TokenKey};
use serde_json::Value;

/// Signs and checks tokens.
pub trait TokenIssuer: Send + Sync + 'static {
    /// The token for these claims.
    ///
    /// # Errors
    /// Where the key cannot sign.
    fn sign(&self, claims: &Value) -> Result<String, TokenError>;

    /// The claims of a token that it signed and that has not expired at `now`, seconds since 1970.
    ///
    /// # Errors
    /// Why the token does not count.
    fn verify(&self, token: &str, now: i64) -> Result<Value, TokenError>;
}

impl TokenIssuer for TokenKey {
    fn sign(&self, claims: &Value) -> Result<String, TokenError> {
        TokenKey::sign(self, claims)
    }
    fn verify(&self, token: &str, now: i64) -> Result<Value, TokenError> {
        TokenKey::verify(self, token, now)
    }
}

impl TokenIssuer for Pki {
    fn sign(&self, claims: &Value) -> Result<String, TokenError> {
        self.tokens().sign(claims)
    }
    fn verify(&self, token: &str, now: i64) -> Result<Value, TokenError> {
        self.tokens().verify(token, now)
    }
}
