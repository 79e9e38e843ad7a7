//! Whether containerd's files let it mount the layers that the daemon offers.

use std::path::Path;

use larder_shared::admin::{Check, Finding, Layers};

use super::DoctorArgs;
use crate::cli::{install, node_files::CONFIG};

const RESTART: &str = "`larder install --streaming` on the node, then restart containerd once";

/// Checks the files that exist here. No finding if no layers are offered.
pub fn look(args: &DoctorArgs, layers: Option<&Layers>) -> Vec<Finding> {
    let Some(layers) = layers.filter(|layers| layers.mode != "off") else {
        return Vec::new();
    };
    let shown = args.files.shown(args.containerd_config.as_deref(), CONFIG);
    let Some(config) = shown else {
        let found =
            format!("{CONFIG} cannot be seen from here, so it was not checked for ready layers");
        return vec![Finding::ok(Check::Streaming, found)];
    };
    let said = args.files.root().map_err(|error| error.to_string());
    match said.and_then(|root| install::containerd_said(&root, &config)) {
        Ok(said) => configured(&said, &config, &layers.directory),
        Err(why) => vec![Finding::warning(
            Check::Streaming,
            format!("what containerd is told of ready layers is not known: {why}"),
            "run the command as root on the node, or look at the file by hand",
        )],
    }
}

/// One finding for each setting.
fn configured(said: &install::Said, config: &Path, directory: &str) -> Vec<Finding> {
    let file = config.display();
    let mut findings = Vec::new();
    let mut judge = |right: bool, well: String, wrong: String, fix: String| {
        findings.push(if right {
            Finding::ok(Check::Streaming, well)
        } else {
            Finding::error(Check::Streaming, wrong, fix)
        });
    };
    let same = |one: &String| Path::new(one) == Path::new(directory);
    judge(
        said.directories.iter().any(same),
        format!("{file} names {directory} in layer_content_caches"),
        format!(
            "{file} and its imports name {:?} in layer_content_caches and not {directory}, so containerd finds no ready layer",
            said.directories
        ),
        format!(
            "`larder install --streaming={directory}` on the node, then restart containerd once"
        ),
    );
    let snapshotter = said.snapshotter.as_deref().unwrap_or("overlayfs");
    judge(
        snapshotter == "erofs",
        format!("{file} gives the kubelet's images to the erofs snapshotter"),
        format!(
            "{file} and its imports give the kubelet's images to the snapshotter {snapshotter}, so no ready layer is used"
        ),
        RESTART.to_owned(),
    );
    let unpack = said.unpack.as_deref().unwrap_or_default();
    judge(
        unpack.iter().any(install::Unpack::is_for_ready_files),
        format!("{file} has an unpack_config for the erofs snapshotter"),
        format!(
            "{file} and its imports have no unpack_config for the erofs snapshotter, so containerd's transfer service pulls no \
             image for it"
        ),
        RESTART.to_owned(),
    );
    let hindrances = said.hindrances().into_iter();
    findings.extend(hindrances.map(|(wrong, fix)| {
        Finding::error(
            Check::Streaming,
            format!("{file} and its imports: {wrong}"),
            fix,
        )
    }));
    findings
}

#[cfg(test)]
mod tests {
    use std::fs;

    use larder_shared::admin::Severity;

    use super::*;

    const DIRECTORY: &str = "/var/lib/larder-layers";

    /// The containerd section of the drop-in that `larder install --streaming` writes.
    const RIGHT: &str = "version = 3
[plugins.\"io.containerd.cri.v1.images\"]
snapshotter = \"erofs\"
[plugins.\"io.containerd.snapshotter.v1.erofs\"]
layer_content_caches = [\"/var/lib/larder-layers/\"]
[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]
platform = \"linux\"
snapshotter = \"erofs\"
differ = \"walking\"
";

    fn wrong(config: &str) -> Vec<String> {
        let node = tempfile::tempdir().unwrap();
        let root = install::Root::new(node.path()).unwrap();
        fs::write(node.path().join("config.toml"), config).unwrap();
        let file = Path::new("/config.toml");
        let said = install::containerd_said(&root, file).unwrap();
        let findings = configured(&said, file, DIRECTORY).into_iter();
        let wrong = findings.filter(|one| one.severity != Severity::Ok);
        wrong.map(|one| one.found).collect()
    }

    #[test]
    fn each_setting_that_is_missing_is_a_finding_of_its_own() {
        assert_eq!(wrong(RIGHT), [] as [&str; 0]);
        for (from, to, words) in [
            (
                "/var/lib/larder-layers/",
                "/srv/base",
                "layer_content_caches",
            ),
            (
                "snapshotter = \"erofs\"\n[",
                "snapshotter = \"native\"\n[",
                "snapshotter native",
            ),
            ("snapshotter = \"erofs\"\n[", "[", "snapshotter overlayfs"),
            (
                "platform = \"linux\"",
                "platform = \"linux(+erofs)/amd64\"",
                "unpack_config",
            ),
            (
                "layer_content_caches",
                "set_immutable = true\nlayer_content_caches",
                "set_immutable",
            ),
            (
                "layer_content_caches",
                "enable_fsverity = true\nlayer_content_caches",
                "enable_fsverity",
            ),
            (
                "layer_content_caches",
                "dmverity_mode = \"on\"\nlayer_content_caches",
                "dmverity_mode",
            ),
        ] {
            assert!(RIGHT.contains(from), "{from}");
            let found = wrong(&RIGHT.replacen(from, to, 1));
            assert_eq!(found.len(), 1, "{to}: {found:?}");
            assert!(found[0].contains(words), "{to}: {found:?}");
        }
        assert_eq!(wrong("version = 3\n").len(), 3);
    }
}
