//! Identities of clouds, as the file says them.

use super::*;

#[test]
fn every_identity_is_understood_and_reads_back() {
    let google = || CloudIdentity::of(Cloud::Google);
    for (said, meant) in [
        ("identity = \"google\"", google()),
        (
            "identity = \"google\", metadata_endpoint = \"http://10.0.0.1/\"",
            CloudIdentity {
                metadata_endpoint: Some("http://10.0.0.1".parse().unwrap()),
                ..google()
            },
        ),
        (
            "identity = \"google\", key_file = \"/s/key.json\"",
            CloudIdentity {
                key_file: Some("/s/key.json".into()),
                ..google()
            },
        ),
        (
            "identity = \"google\", token_file = \"/t\", audience = \"//iam/x\", token_endpoint = \"https://sts.example\"",
            CloudIdentity {
                token_file: Some("/t".into()),
                audience: Some("//iam/x".to_owned()),
                token_endpoint: Some("https://sts.example".parse().unwrap()),
                ..google()
            },
        ),
        (
            "identity = \"aws\", role = \"arn:aws:iam::1:role/x\", api_endpoint = \"https://vpce.example\"",
            CloudIdentity {
                role: Some("arn:aws:iam::1:role/x".to_owned()),
                api_endpoint: Some("https://vpce.example".parse().unwrap()),
                ..CloudIdentity::of(Cloud::Aws)
            },
        ),
        (
            "identity = \"azure\", client_id = \"c\", tenant_id = \"t\"",
            CloudIdentity {
                client_id: Some("c".to_owned()),
                tenant_id: Some("t".to_owned()),
                ..CloudIdentity::of(Cloud::Azure)
            },
        ),
    ] {
        let config = parsed(&format!("[upstreams.\"a.b\"]\ncredentials = {{ {said} }}"));
        let meant = Credentials::Cloud(Box::new(meant));
        assert_eq!(config.upstream("a.b").credentials.as_ref(), Some(&meant));
        assert_eq!(parsed(&config.to_toml()), config);
    }
}
