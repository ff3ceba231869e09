//! ServiceAccount tokens: JSON Web Tokens signed with ES256 (RFC 7515, 7519).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64 JSON, or another algorithm.
    #[error("not a token of this cluster")]
    Malformed,
    /// Signed by somebody else.
    #[error("the signature is not this cluster's")]
    Signature,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// The key cannot sign.
    #[error("the key cannot sign")]
    Key,
}

/// The key pair that signs and checks tokens.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    id: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKey({})", self.id)
    }
}

impl TokenKey {
    /// A P-256 private key in PEM (PKCS #8).
    ///
    /// # Errors
    /// [`TokenError::Key`] where it is not one.
    pub fn from_pem(pem: &str) -> Result<Self, TokenError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| TokenError::Key)?;
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            der.secret_pkcs8_der(),
            &SystemRandom::new(),
        )
        .map_err(|_| TokenError::Key)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Ok(TokenKey { pair, id: URL_SAFE_NO_PAD.encode(digest) })
    }

    /// The token for these claims.
    ///
    /// # Errors
    /// [`TokenError::Key`] where the system has no randomness.
    pub fn sign(&self, claims: &Value) -> Result<String, TokenError> {
        let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let header = json!({"alg": "ES256", "kid": self.id});
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature =
            self.pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| TokenError::Key)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed and that has not expired at `now` (seconds since 1970).
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify(&self, token: &str, now: i64) -> Result<Value, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |s: &str| URL_SAFE_NO_PAD.decode(s).map_err(|_| TokenError::Malformed);
        let json = |s: &str| -> Result<Value, TokenError> {
            serde_json::from_slice(&decode(s)?).map_err(|_| TokenError::Malformed)
        };
        // The algorithm is ours to choose, never the bearer's (RFC 8725, 3.1).
        if json(header)?["alg"] != "ES256" {
            return Err(TokenError::Malformed);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims = json(claims)?;
        match claims["exp"].as_i64() {
            Some(end) if end > now => Ok(claims),
            _ => Err(TokenError::Expired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
    }

    #[test]
    fn a_token_counts_until_it_expires() {
        let key = key();
        let claims = json!({"sub": "system:serviceaccount:default:default", "exp": 100});
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token, 99), Ok(claims));
        assert_eq!(key.verify(&token, 100), Err(TokenError::Expired));
        let endless = key.sign(&json!({"sub": "x"})).unwrap();
        assert_eq!(key.verify(&endless, 0), Err(TokenError::Expired), "no end is no token");
    }

    #[test]
    fn what_others_signed_does_not_count() {
        let (ours, theirs) = (key(), key());
        let token = theirs.sign(&json!({"exp": 100})).unwrap();
        assert_eq!(ours.verify(&token, 0), Err(TokenError::Signature));
        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode(r#"{"exp":100}"#)
        );
        for bad in ["", ".", "..", "a.b.c", none.as_str(), &ours.sign(&json!({"exp": 9})).unwrap()[1..]] {
            assert_eq!(ours.verify(bad, 0), Err(TokenError::Malformed), "{bad:?}");
        }
    }
}
