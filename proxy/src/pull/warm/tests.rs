use super::*;

#[test]
fn platforms_are_chosen_by_name_with_or_without_variant() {
    let digest = |of: &str| Digest::sha256(of.as_bytes());
    let entry = |of: &str, platform: &str| {
        let mut parts = platform.split('/');
        let [os, architecture, variant] = [parts.next(), parts.next(), parts.next()];
        serde_json::json!({"digest": digest(of), "size": 1,
            "platform": {"os": os, "architecture": architecture, "variant": variant}})
    };
    let index = serde_json::json!({"manifests": [
        entry("amd", "linux/amd64"), entry("v6", "linux/arm/v6"), entry("v7", "linux/arm/v7"),
        entry("arm", "linux/arm64/v8"), entry("at", "unknown/unknown"),
    ]});
    let index = index.to_string();
    let these = |names: &[&str]| {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        chosen(index.as_bytes(), &Platforms::These(names))
    };
    let found = these(&["linux/amd64", "linux/arm64", "linux/arm"]).expect("all there");
    let digests: Vec<_> = found.iter().map(|(digest, _)| *digest).collect();
    assert_eq!(digests, [digest("amd"), digest("arm"), digest("v7")]);
    assert_eq!(these(&["linux/arm/v6"]).expect("there")[0].0, digest("v6"));
    let error = these(&["linux/arm/v5"]).expect_err("not there");
    let there = "linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8;";
    assert!(error.contains(there), "{error}");
    assert!(these(&["linux/am"]).is_err());
    let all = chosen(index.as_bytes(), &Platforms::All).expect("all");
    assert_eq!(all.len(), 5);
}
