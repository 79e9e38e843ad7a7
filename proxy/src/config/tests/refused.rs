//! The exact error for every mistake.

use super::parse;

/// A file, and the whole error.
const REFUSED: &[(&str, &str)] = &[
    // Keys
    (
        "[store]\n\nmax_sise = \"80%\"",
        "3:1: unknown key `max_sise` in [store]: did you mean `max_size`?",
    ),
    (
        "[store]\n  colour = 1",
        "2:3: unknown key `colour` in [store]: the keys are `path`, `max_size`, `min_free`, `ttl`, `complete_after`",
    ),
    (
        "[stroe]\npath = \"/x\"",
        "1:2: unknown section [stroe]: did you mean [store]?",
    ),
    (
        "[pantry]\nlisten = \"0.0.0.0:7422\"",
        "1:2: unknown section [pantry]: the sections are [registry], [store], [runtime], [streaming], [tags], [access], [upstreams], [cluster], [warm], [telemetry], [admin]",
    ),
    (
        "path = \"/x\"",
        "1:1: unknown key `path` outside of any section: the sections are [registry], [store], [runtime], [streaming], [tags], [access], [upstreams], [cluster], [warm], [telemetry], [admin]",
    ),
    (
        "[registry]\nallow_from = []",
        "2:14: `allow_from` in [registry]: no client could pull: name \"node\" at least, or leave the key out",
    ),
    (
        "[registry]\nallow_hosts = [\"mirror.example.com:7420\"]",
        "2:16: `allow_hosts` in [registry] is \"mirror.example.com:7420\": a host is a name such as \"registry.example.com\", without scheme, port and `*`; any port is fine",
    ),
    (
        "[registry]\nallow_hosts = [\"*.example.com\"]",
        "2:16: `allow_hosts` in [registry] is \"*.example.com\": a host is a name such as \"registry.example.com\", without scheme, port and `*`; any port is fine",
    ),
    (
        "[telemetry]\npage = true",
        "2:1: unknown key `page` in [telemetry]: the keys are `listen`, `expose`, `log`, `log_format`",
    ),
    (
        "[runtime]\nfile = \"runtime.json\"",
        "2:8: `file` in [runtime] is \"runtime.json\": write the whole path, from `/` on; or \"off\"",
    ),
    (
        "[streaming]\nmode = \"on\"",
        "2:8: `mode` in [streaming] is \"on\": write \"off\", \"ready\" or \"lazy\"",
    ),
    (
        "[streaming]\ndirectory = \"layers\"",
        "2:13: `directory` in [streaming] is \"layers\": write the whole path, from `/` on",
    ),
    (
        "[streaming]\nnever = [\"nginx\"]",
        "2:10: `never` in [streaming] is \"nginx\": write a pattern over registry and repository, such as \"ghcr.io/team/*\" or \"*/nginx\", or \"namespace:kube-system\"",
    ),
    (
        "[streaming]\nnever = [\"ghcr.io/team/app@sha256\"]",
        "2:10: `never` in [streaming] is a value not shown here: a pattern is REGISTRY/REPOSITORY in which `*` stands for anything, such as \"ghcr.io/team/*\"; without a tag",
    ),
    (
        "[streaming]\nnever = [\"namespace:\"]",
        "2:10: `never` in [streaming] is \"namespace:\": a namespace is written as Kubernetes has it, such as \"namespace:kube-system\"",
    ),
    (
        "[streaming]\nmin_layer = \"5%\"",
        "2:13: `min_layer` in [streaming] is \"5%\": write a size, such as \"16MiB\"",
    ),
    (
        "[upstreams.\"ghcr.io\"]\nproof = true",
        "2:1: unknown key `proof` in [upstreams.\"ghcr.io\"]: the keys are `endpoints`, `ca`, `insecure_skip_verify`, `client_cert`, `client_key`, `proves_access`, `alias`, `ttl`, `tags`, `access`, `credentials`",
    ),
    (
        "[upstreams.docker.io]\nalias = \"hub\"",
        "1:19: unknown key `io` in [upstreams.\"docker\"]: a registry's name goes into quotes, as in [upstreams.\"docker.io\"]",
    ),
    (
        "[upstreams.\"ghcr.io\"]\ntags = [\n  { mach = \"v*\", match = \"v*\", fresh_for = \"1h\" },\n]",
        "3:5: unknown key `mach` in `tags` of [upstreams.\"ghcr.io\"]: did you mean `match`?",
    ),
    (
        "[upstreams.\"ghcr.io\"]\ntags = [{ match = \"v*\" }]",
        "2:9: `fresh_for` is missing in `tags` of [upstreams.\"ghcr.io\"]",
    ),
    // The notation itself
    (
        "[store]\npath = \"/a\"\npath = \"/b\"",
        "3:1: not TOML: duplicate key",
    ),
    ("[store\n", "1:7: not TOML: unclosed table, expected `]`"),
    // Types
    (
        "[store]\npath = 5",
        "2:8: `path` in [store] is the number 5: write a string in quotes",
    ),
    (
        "store = \"/var/lib/larder\"",
        "1:9: `store` is the string \"/var/lib/larder\": write it as a section, [store]",
    ),
    (
        "[upstreams]\n\"ghcr.io\" = \"https://ghcr.io\"",
        "2:1: \"ghcr.io\" in [upstreams] is the string \"https://ghcr.io\": write it as a section, [upstreams.\"ghcr.io\"]",
    ),
    (
        "[registry]\nallow = \"*\"",
        "2:9: `allow` in [registry] is the string \"*\": write a list: [\"…\"]",
    ),
    (
        "[registry]\nallow = [\"*\", true]",
        "2:15: `allow` in [registry] is true: write a string in quotes",
    ),
    (
        "[upstreams.\"a.b\"]\ninsecure_skip_verify = \"yes\"",
        "2:24: `insecure_skip_verify` in [upstreams.\"a.b\"] is the string \"yes\": write true or false, without quotes",
    ),
    (
        "[upstreams.\"a.b\"]\nclient_cert = \"/tls/tls.crt\"",
        "2:15: `client_cert` in [upstreams.\"a.b\"]: it is of no use without its key: name that in `client_key`",
    ),
    (
        "[upstreams.\"a.b\"]\nclient_key = \"/tls/tls.key\"",
        "2:14: `client_key` in [upstreams.\"a.b\"]: it is of no use without its certificate: name that in `client_cert`",
    ),
    (
        "[tags]\nwhen_deleted = \"drop\"",
        "2:16: `when_deleted` in [tags] is \"drop\": write \"serve\" or \"forget\"",
    ),
    (
        "[tags]\ntimeout = 2026-01-01",
        "2:11: `timeout` in [tags] is the date 2026-01-01: write a string in quotes",
    ),
    // Sizes
    (
        "[store]\nmax_size = \"50 apples\"",
        "2:12: `max_size` in [store] is \"50 apples\": a size is written \"50GiB\", \"500MB\" or \"80%\"",
    ),
    (
        "[store]\nmax_size = 80",
        "2:12: `max_size` in [store] is \"80\": the unit is missing: write \"80GiB\", \"80MB\" or \"80%\"",
    ),
    (
        "[store]\nmin_free = \"101%\"",
        "2:12: `min_free` in [store] is \"101%\": a percentage cannot be over 100%",
    ),
    (
        "[store]\nmin_free = \"12.5%\"",
        "2:12: `min_free` in [store] is \"12.5%\": a percentage is a whole number, such as \"80%\"",
    ),
    (
        "[store]\nmax_size = \"0\"",
        "2:12: `max_size` in [store] is \"0\": a store of this size holds nothing: write \"80%\" or \"50GiB\"",
    ),
    (
        "[store]\nmax_size = \"99999999999EiB\"",
        "2:12: `max_size` in [store] is \"99999999999EiB\": more than any disk can hold",
    ),
    // Times
    (
        "[store]\nttl = 168",
        "2:7: `ttl` in [store] is \"168\": the unit is missing: write \"168s\", \"168m\" or \"168h\"",
    ),
    (
        "[access]\ngrace = \"24\"",
        "2:9: `grace` in [access] is \"24\": the unit is missing: write \"24s\", \"24m\" or \"24h\"",
    ),
    (
        "[access]\nttl = \"1.5h\"",
        "2:7: `ttl` in [access] is \"1.5h\": no fractions: write \"1h30m\" for one hour and a half",
    ),
    (
        "[access]\nttl = \"3w\"",
        "2:7: `ttl` in [access] is \"3w\": the units are d, h, m, s and ms",
    ),
    (
        "[access]\nttl = \"30m1h\"",
        "2:7: `ttl` in [access] is \"30m1h\": each unit once, and the largest first: \"1h30m\"",
    ),
    (
        "[access]\nttl = \"-2s\"",
        "2:7: `ttl` in [access] is \"-2s\": a time is written \"168h\", \"1h30m\", \"2s\" or \"500ms\", and \"0\" for off",
    ),
    (
        "[access]\nttl = \"99999999999999999h\"",
        "2:7: `ttl` in [access] is \"99999999999999999h\": longer than 100 years",
    ),
    (
        "[tags]\ntimeout = \"0\"",
        "2:11: `timeout` in [tags] is \"0\": no time at all: write \"2s\"",
    ),
    // Addresses
    (
        "[registry]\nlisten = \"127.0.0.1:74200\"",
        "2:10: `listen` in [registry] is \"127.0.0.1:74200\": ports end at 65535",
    ),
    (
        "[registry]\nlisten = \"300.0.0.1:7420\"",
        "2:10: `listen` in [registry] is \"300.0.0.1:7420\": an address is IP:PORT, such as \"127.0.0.1:7420\" or \"[::1]:7420\"",
    ),
    (
        "[registry]\nlisten = \"localhost:7420\"",
        "2:10: `listen` in [registry] is \"localhost:7420\": the address must be in numbers: write \"127.0.0.1:7420\"",
    ),
    (
        "[telemetry]\nlisten = \":7421\"",
        "2:10: `listen` in [telemetry] is \":7421\": the address is missing: write \"127.0.0.1:7421\", or \"0.0.0.0:7421\" for every interface; or \"off\"",
    ),
    (
        "[registry]\nlisten = \"127.0.0.1:7421\"",
        "2:10: `listen` in [registry]: 127.0.0.1:7421 is taken by [telemetry]: choose another port",
    ),
    (
        "[telemetry]\nlisten = \"0.0.0.0:7420\"",
        "2:10: `listen` in [telemetry]: 0.0.0.0:7420 is taken by [registry]: choose another port",
    ),
    (
        "[telemetry]\nexpose = \"0.0.0.0:7421\"",
        "2:10: `expose` in [telemetry]: 127.0.0.1:7421 is taken: name the pod's own address, or choose another port",
    ),
    // URLs
    (
        "[upstreams.\"ghcr.io\"]\nendpoints = [\n  \"https://ghcr.io\",\n  \"mirror.example.com:5000\",\n]",
        "4:3: `endpoints` in [upstreams.\"ghcr.io\"] is \"mirror.example.com:5000\": the scheme is missing: write \"https://mirror.example.com:5000\"",
    ),
    (
        "[upstreams.\"ghcr.io\"]\nendpoints = [\"ftp://ghcr.io\"]",
        "2:14: `endpoints` in [upstreams.\"ghcr.io\"] is \"ftp://ghcr.io\": the scheme must be https:// or http://",
    ),
    (
        "[upstreams.\"ghcr.io\"]\nendpoints = [\"https://me:hunter2@ghcr.io\"]",
        "2:14: `endpoints` in [upstreams.\"ghcr.io\"] is a value not shown here: a URL must hold no user and no password here: take out what stands before the `@`",
    ),
    (
        "[upstreams.\"ghcr.io\"]\nendpoints = \"https://me:hunter2@ghcr.io\"",
        "2:13: `endpoints` in [upstreams.\"ghcr.io\"] is a string not shown here: write a list: [\"…\"]",
    ),
    (
        "[upstreams.\"ghcr.io\"]\nendpoints = [\"https://ghcr.io?x=1\"]",
        "2:14: `endpoints` in [upstreams.\"ghcr.io\"] is \"https://ghcr.io?x=1\": a URL must hold no query and no fragment here",
    ),
    (
        "[upstreams.\"ghcr.io\"]\nendpoints = [\"https://ghcr.io:99999\"]",
        "2:14: `endpoints` in [upstreams.\"ghcr.io\"] is \"https://ghcr.io:99999\": the port must be a number from 1 to 65535",
    ),
    (
        "[upstreams.\"ghcr.io\"]\nendpoints = []",
        "2:13: `endpoints` in [upstreams.\"ghcr.io\"]: the list is empty: name one, or leave the key out for the registry itself",
    ),
    // Names
    (
        "[upstreams.\"https://ghcr.io\"]",
        "1:12: [upstreams.\"https://ghcr.io\"]: leave out the scheme, as in an image reference: \"ghcr.io\"",
    ),
    (
        "[upstreams.\"https://me:hunter2@ghcr.io\"]",
        "1:12: [upstreams.\"…\"]: leave out the scheme, as in an image reference: \"ghcr.io\"",
    ),
    (
        "[registry]\ndefault_upstream = \"ghcr.io/acme\"",
        "2:20: `default_upstream` in [registry] is \"ghcr.io/acme\": leave out the path, the registry's name is enough: \"ghcr.io\"",
    ),
    (
        "[upstreams.\"docker.io\"]\n[upstreams.\"registry-1.docker.io\"]",
        "2:12: [upstreams.\"registry-1.docker.io\"]: the same registry as another section, docker.io: join the two",
    ),
    (
        "[registry]\ndeny = [\"evil?.com\"]",
        "2:9: `deny` in [registry] is \"evil?.com\": a pattern is a registry's name in which `*` stands for anything, such as \"*.example.com\"",
    ),
    (
        "[upstreams.\"a.b\"]\nalias = \"Hub/x\"",
        "2:9: `alias` in [upstreams.\"a.b\"] is \"Hub/x\": an alias is one path component in lower case, such as \"hub\" or \"my-registry\"",
    ),
    (
        "[upstreams.\"a.b\"]\nalias = \"hub\"\n[upstreams.\"c.d\"]\nalias = \"hub\"",
        "4:9: `alias` in [upstreams.\"c.d\"]: \"hub\" is taken by [upstreams.\"a.b\"]: choose another",
    ),
    (
        "[upstreams.\"a.b\"]\nalias = \"c.d\"\n[upstreams.\"c.d\"]",
        "2:9: `alias` in [upstreams.\"a.b\"]: \"c.d\" is another registry's name: choose another",
    ),
    // Credentials
    (
        "[upstreams.\"a.b\"]\ncredentials = \"/etc/docker/config.json\"",
        "2:15: `credentials` in [upstreams.\"a.b\"]: write a table: { … }",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = {}",
        "2:15: `credentials` of [upstreams.\"a.b\"]: no source: add `docker_config`, `username_file` and `password_file`, `helper`, `kubelet_config` and `bin_dir`, or `identity`",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { docker_confg = \"/x\" }",
        "2:17: unknown key `docker_confg` in `credentials` of [upstreams.\"a.b\"]: did you mean `docker_config`?",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { password = \"hunter2\" }",
        "2:17: unknown key `password` in `credentials` of [upstreams.\"a.b\"]: the keys are `docker_config`, `username_file`, `password_file`, `helper`, `kubelet_config`, `bin_dir`, `identity`, `key_file`, `token_file`, `audience`, `role`, `client_id`, `tenant_id`, `metadata_endpoint`, `token_endpoint`, `api_endpoint`",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { docker_config = \"config.json\" }",
        "2:33: `docker_config` in `credentials` of [upstreams.\"a.b\"] is \"config.json\": write the whole path, from `/` on",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { username_file = \"/u\", password_file = \"hunter2\" }",
        "2:55: `password_file` in `credentials` of [upstreams.\"a.b\"]: it names a file: write the whole path, from `/` on",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { username_file = \"/u\" }",
        "2:33: `username_file` in `credentials` of [upstreams.\"a.b\"]: it goes with `password_file`: add that key",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { password_file = \"/p\" }",
        "2:33: `password_file` in `credentials` of [upstreams.\"a.b\"]: it goes with `username_file`: add that key",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { kubelet_config = \"/k\" }",
        "2:34: `kubelet_config` in `credentials` of [upstreams.\"a.b\"]: it goes with `bin_dir`: add that key",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { bin_dir = \"/b\" }",
        "2:27: `bin_dir` in `credentials` of [upstreams.\"a.b\"]: it goes with `kubelet_config`: add that key",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { helper = \"gcr\", docker_config = \"/x\" }",
        "2:26: `helper` in `credentials` of [upstreams.\"a.b\"]: `docker_config` names another source: keep one of the two",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { username_file = \"/u\", password_file = \"/p\", bin_dir = \"/b\" }",
        "2:71: `bin_dir` in `credentials` of [upstreams.\"a.b\"]: `username_file` names another source: keep one of the two",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { identity = \"gcp\" }",
        "2:28: `identity` in `credentials` of [upstreams.\"a.b\"] is \"gcp\": write \"google\" or \"aws\" or \"azure\"",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { identity = \"google\", helper = \"gcr\" }",
        "2:47: `helper` in `credentials` of [upstreams.\"a.b\"]: `identity` names another source: keep one of the two",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { identity = \"google\", metadata_endpoint = \"https://m\" }",
        "2:58: `metadata_endpoint` in `credentials` of [upstreams.\"a.b\"] is \"https://m\": a metadata server speaks plain HTTP: write \"http://…\"",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { identity = \"azure\", role = \"x\" }",
        "2:44: `role` in `credentials` of [upstreams.\"a.b\"]: azure has no use for it: beside `identity` it knows `token_file`, `client_id`, `tenant_id`, `audience`, `metadata_endpoint`, `token_endpoint`",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { identity = \"azure\", client_id = \"a b\" }",
        "2:49: `client_id` in `credentials` of [upstreams.\"a.b\"] is \"a b\": write it without spaces, in ASCII",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { key_file = \"/k\" }",
        "2:28: `key_file` in `credentials` of [upstreams.\"a.b\"]: it goes with `identity`: add that key",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { identity = \"google\", token_file = \"/t\" }",
        "2:51: `token_file` in `credentials` of [upstreams.\"a.b\"]: it goes with `audience`: add that key",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { identity = \"google\", key_file = \"/k\", metadata_endpoint = \"http://m\" }",
        "2:75: `metadata_endpoint` in `credentials` of [upstreams.\"a.b\"]: `key_file` is another way to an identity: keep one of the two",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { identity = \"google\", token_endpoint = \"sts\" }",
        "2:55: `token_endpoint` in `credentials` of [upstreams.\"a.b\"] is \"sts\": the scheme is missing: write \"https://sts\"",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { helper = \"docker-credential-gcr\" }",
        "2:26: `helper` in `credentials` of [upstreams.\"a.b\"] is \"docker-credential-gcr\": leave out `docker-credential-`: \"ecr-login\"",
    ),
    (
        "[upstreams.\"a.b\"]\ncredentials = { helper = \"../bin/sh\" }",
        "2:26: `helper` in `credentials` of [upstreams.\"a.b\"] is \"../bin/sh\": a helper is named by what follows `docker-credential-`, such as \"ecr-login\"",
    ),
    (
        "[upstreams.\"a.b\"]\naccess = \"everyone\"",
        "2:10: `access` in [upstreams.\"a.b\"] is \"everyone\": write \"per-credential\" or \"shared\"",
    ),
    (
        "[upstreams.\"a.b\"]\naccess = \"shared\"",
        "2:10: `access` in [upstreams.\"a.b\"]: there is nothing to share without `credentials`: add them, or leave `access` out",
    ),
    // Paths and words
    (
        "[store]\npath = \"~/larder\"",
        "2:8: `path` in [store] is \"~/larder\": `~` is not expanded: write the whole path",
    ),
    (
        "[telemetry]\nlog = \"info,larder=loud\"",
        "2:7: `log` in [telemetry] is \"info,larder=loud\": a log filter is a level, such as \"info\", or \"info,larder::fill=debug\"",
    ),
];

#[test]
fn every_mistake_is_named_with_its_place_and_mend() {
    let mut wrong = Vec::new();
    for (text, expected) in REFUSED {
        let found = match parse(text) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        if found != format!("larder.toml:{expected}") {
            wrong.push(format!(
                "{text}\n  found    {found}\n  expected larder.toml:{expected}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
