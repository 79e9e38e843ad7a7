//! What `helm` says to the person who installs the chart, and that the chart can be copied and packed.

use crate::helm::object;

/// A setting of larder's file, as the chart writes it.
fn setting(values: &str, key: &str) -> Option<String> {
    let map = object(values, "ConfigMap");
    let text = map["data"]["larder.toml"]
        .as_str()
        .expect("a file")
        .to_owned();
    let lines = text
        .lines()
        .filter_map(|line| line.trim().split_once(" = "));
    let mut values = lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches('"'));
    values.next().map(str::to_owned)
}

/// Every user may write into an emptyDir's own directory, and the container's user cannot change that.
#[test]
fn the_store_in_an_empty_dir_is_a_directory_of_larders_own() {
    let path = |values| setting(values, "path").expect("a path");
    assert_eq!(path("store: {type: emptyDir}"), "/var/lib/larder/store");
    assert_eq!(path("{}"), "/var/lib/larder");
}

/// On a disk that the kubelet uses too, larder's own default of `min_free` holds.
#[test]
fn the_charts_bounds_are_for_a_shared_disk_or_for_one_of_larders_own() {
    let bounds = |values| ["max_size", "min_free"].map(|key| setting(values, key));
    let text = |text: &str| Some(text.to_owned());
    for shared in ["{}", "store: {type: emptyDir}"] {
        assert_eq!(bounds(shared), [text("40%"), None]);
    }
    assert_eq!(
        bounds("store: {type: ephemeral, size: 9Gi}"),
        [None, text("5%")]
    );
}
