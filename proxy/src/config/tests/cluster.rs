use super::*;

#[test]
fn a_cluster_is_understood_and_what_makes_no_sense_is_refused() {
    let tls = r#"tls = { ca = "/a", cert = "/b", key = "/c", name = "peer.local" }"#;
    let list = r#"members = ["10.0.0.1:7422", "[fd00::1]:7422"]"#;
    let listen = r#"listen = "0.0.0.0:7422""#;
    let config = parsed(&format!("[cluster]\n{listen}\n{list}\n{tls}\n"));
    assert_eq!(parsed(&config.to_toml()), config);
    let off = parsed("[cluster]\nlisten = \"off\"\n");
    assert_eq!(off.cluster, Cluster::default());
    for (text, said) in [
        (format!("{listen}\n{tls}"), "`members` is missing"),
        (format!("{listen}\n{list}"), "`tls` is missing"),
        (format!("{list}\n{tls}"), "`listen`"),
        (format!("{listen}\n{tls}\nmembers = []"), "empty"),
        (
            format!("{listen}\n{tls}\nmembers = \"peers\""),
            "dns:NAME:PORT",
        ),
        (
            format!("{listen}\n{tls}\nmembers = \"dns:a b\""),
            "dns:NAME:PORT",
        ),
        (format!("{listen}\n{list}\ntls = \"on\""), "\"off\""),
        (
            format!("{listen}\n{list}\ntls = {{ ca = \"/a\" }}"),
            "`cert` is missing",
        ),
        (
            format!("{listen}\n{list}\n{tls}\nadvertise = \"0.0.0.0:1\""),
            "own address",
        ),
        (
            format!("{listen}\n{list}\n{tls}\ncopies = 0"),
            "makes no copies",
        ),
        (
            format!("{listen}\n{list}\n{tls}\ncopies = 2.5"),
            "makes no copies",
        ),
        (
            format!("{listen}\n{list}\n{tls}\ncopy_rate = \"5%\""),
            "per second",
        ),
        (
            "listen = \"127.0.0.1:7420\"\n".to_owned() + list + "\n" + tls,
            "taken",
        ),
        ("object_store = { url = \"ftp://a\" }".to_owned(), "s3://"),
        (
            "object_store = { url = \"s3://a\", options = { aws_secret_access_key = \"x\" } }"
                .to_owned(),
            "AWS_SECRET_ACCESS_KEY",
        ),
        (
            "object_store = { url = \"s3://a\", max_rate = \"0\" }".to_owned(),
            "leave it out",
        ),
        (
            "object_store = { url = \"s3://a\", max_rate = \"80%\" }".to_owned(),
            "per second",
        ),
    ] {
        let error = parse(&format!("[cluster]\n{text}\n"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{text}\n{error}");
    }
}
