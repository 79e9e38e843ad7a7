//! Checks a request's signature (AWS Signature Version 4). It follows the specification, and shares no code with
//! larder.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::google::wanted;
use super::server::Asked;

/// A pair of keys that the fakes know, and its session token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKeys {
    pub id: String,
    pub secret: String,
    pub session: Option<String>,
}

/// A fault of the keys and not of the request, as AWS reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsigned {
    NoSuchKey,
    WrongSignature,
}

fn hash(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

/// Whether `keys` have signed the request for this service and region. The outer error means a request that no signer
/// sends.
pub(super) fn check(
    asked: &Asked,
    keys: &AwsKeys,
    service: &str,
    region: &str,
) -> Result<Result<(), Unsigned>, String> {
    let authorization = asked.header("authorization").ok_or("no Authorization")?;
    let rest = authorization
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .ok_or("another algorithm")?;
    let field = |name: &str| {
        let mut fields = rest.split(", ").filter_map(|field| field.split_once('='));
        fields
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .ok_or(format!("no {name}"))
    };
    let (credential, names, signature) = (
        field("Credential")?,
        field("SignedHeaders")?,
        field("Signature")?,
    );
    let time = asked.header("x-amz-date").ok_or("no x-amz-date")?;
    wanted(time.len() == 16 && time.ends_with('Z'), "the date's form")?;
    let date = &time[..8];
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let (id, signed_scope) = credential.split_once('/').ok_or("no scope")?;
    wanted(
        signed_scope == scope,
        &format!("the scope {scope}, and not {signed_scope}"),
    )?;
    let payload = hash(&asked.body);
    wanted(
        asked
            .header("x-amz-content-sha256")
            .is_none_or(|said| said == payload),
        "the payload's hash",
    )?;
    let names: Vec<&str> = names.split(';').collect();
    wanted(
        names.is_sorted() && names.contains(&"host"),
        "sorted names of headers, with host",
    )?;
    for needed in asked.headers.keys().map(http::HeaderName::as_str) {
        let must = needed.starts_with("x-amz-") || needed == "content-type";
        wanted(
            !must || names.contains(&needed),
            &format!("{needed} signed"),
        )?;
    }
    let mut canonical = format!("{}\n{}\n{}\n", asked.method, asked.path, asked.query);
    for name in &names {
        let value = asked
            .header(name)
            .ok_or(format!("{name} is signed and not there"))?;
        writeln!(canonical, "{name}:{}", value.trim()).expect("a string takes all");
    }
    write!(canonical, "\n{}\n{payload}", names.join(";")).expect("a string takes all");
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hash(canonical.as_bytes())
    );
    if id != keys.id || asked.header("x-amz-security-token") != keys.session.as_deref() {
        return Ok(Err(Unsigned::NoSuchKey));
    }
    let key = mac(format!("AWS4{}", keys.secret).as_bytes(), date);
    let key = [region, service, "aws4_request"]
        .iter()
        .fold(key, |key, part| mac(&key, part));
    let expected = HEXLOWER.encode(&mac(&key, &text));
    Ok(if expected == signature {
        Ok(())
    } else {
        Err(Unsigned::WrongSignature)
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    /// The example of AWS's documentation: ListUsers of IAM.
    #[test]
    fn the_example_of_the_specification() {
        let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        let headers = [
            ("host", "iam.amazonaws.com"),
            (
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8",
            ),
            ("x-amz-date", "20150830T123600Z"),
            (
                "authorization",
                &format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature={signature}"
                ),
            ),
        ];
        let pair = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        let asked = Asked {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            query: "Action=ListUsers&Version=2010-05-08".to_owned(),
            headers: headers.iter().map(pair).collect::<HeaderMap>(),
            body: Bytes::new(),
        };
        let mut keys = AwsKeys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session: None,
        };
        assert_eq!(check(&asked, &keys, "iam", "us-east-1"), Ok(Ok(())));
        keys.secret.push('x');
        assert_eq!(
            check(&asked, &keys, "iam", "us-east-1"),
            Ok(Err(Unsigned::WrongSignature))
        );
        assert!(check(&asked, &keys, "ecr", "us-east-1").is_err());
    }
}
