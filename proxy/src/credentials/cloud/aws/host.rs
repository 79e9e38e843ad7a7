//! What the name of an AWS registry tells: its region and partition, and so the API that gives its tokens.

/// The API that gives a registry's tokens. All registries of one region share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) struct Api {
    /// The API's own URL.
    pub url: String,
    /// The regional STS of the same partition.
    pub sts: String,
    pub region: String,
    /// Elastic Container Registry Public.
    pub public: bool,
}

/// Names of the public registry.
const PUBLIC: [&str; 2] = ["public.ecr.aws", "ecr-public.aws.com"];

/// The domains of private registries, with that of the partition's APIs where it differs.
const DOMAINS: [(&str, &str); 9] = [
    ("amazonaws.com", ""),
    ("amazonaws.com.cn", ""),
    ("amazonaws.eu", ""),
    ("on.aws", "api.aws"),
    (
        "on.amazonwebservices.com.cn",
        "api.amazonwebservices.com.cn",
    ),
    ("sc2s.sgov.gov", ""),
    ("c2s.ic.gov", ""),
    ("cloud.adc-e.uk", ""),
    ("csp.hci.ic.gov", ""),
];

impl Api {
    /// The API behind a registry's host; `None` for a host that is no registry of AWS.
    pub(super) fn of(host: &str) -> Option<Self> {
        if PUBLIC.contains(&host) {
            return Some(Self {
                url: "https://api.ecr-public.us-east-1.amazonaws.com".to_owned(),
                sts: "https://sts.us-east-1.amazonaws.com".to_owned(),
                region: "us-east-1".to_owned(),
                public: true,
            });
        }
        let (account, rest) = host.split_once('.')?;
        if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let rest = rest
            .strip_prefix("dkr.ecr")
            .or_else(|| rest.strip_prefix("dkr-ecr"))?;
        let (fips, rest) = match rest.strip_prefix("-fips") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (region, domain) = rest.strip_prefix('.')?.split_once('.')?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !region.starts_with(|c: char| c.is_ascii_alphanumeric()) || !region.bytes().all(plain) {
            return None;
        }
        let (_, apis) = DOMAINS.iter().find(|(name, _)| *name == domain)?;
        let dual = !apis.is_empty();
        let suffix = if dual { apis } else { domain };
        let api = match (fips, dual) {
            (false, false) => "api.ecr",
            (false, true) => "ecr",
            (true, _) => "ecr-fips",
        };
        // In GovCloud, the STS under the plain name is already a FIPS one.
        let sts = if fips && !region.starts_with("us-gov-") {
            "sts-fips"
        } else {
            "sts"
        };
        Some(Self {
            url: format!("https://{api}.{region}.{suffix}"),
            sts: format!("https://{sts}.{region}.{suffix}"),
            region: region.to_owned(),
            public: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_api_follows_from_the_host() {
        for (host, url, sts) in [
            (
                "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
                "api.ecr.eu-central-1.amazonaws.com",
                "sts.eu-central-1.amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com",
                "ecr-fips.us-east-1.amazonaws.com",
                "sts-fips.us-east-1.amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                "ecr-fips.us-gov-west-1.amazonaws.com",
                "sts.us-gov-west-1.amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "api.ecr.cn-north-1.amazonaws.com.cn",
                "sts.cn-north-1.amazonaws.com.cn",
            ),
            (
                "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
                "api.ecr.eusc-de-east-1.amazonaws.eu",
                "sts.eusc-de-east-1.amazonaws.eu",
            ),
            (
                "123456789012.dkr-ecr.eu-west-1.on.aws",
                "ecr.eu-west-1.api.aws",
                "sts.eu-west-1.api.aws",
            ),
            (
                "123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
                "ecr.cn-north-1.api.amazonwebservices.com.cn",
                "sts.cn-north-1.api.amazonwebservices.com.cn",
            ),
            (
                "123456789012.dkr-ecr-fips.us-west-2.on.aws",
                "ecr-fips.us-west-2.api.aws",
                "sts-fips.us-west-2.api.aws",
            ),
            (
                "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov",
                "api.ecr.us-iso-east-1.c2s.ic.gov",
                "sts.us-iso-east-1.c2s.ic.gov",
            ),
            (
                "123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
                "api.ecr.us-isob-east-1.sc2s.sgov.gov",
                "sts.us-isob-east-1.sc2s.sgov.gov",
            ),
            (
                "123456789012.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
                "api.ecr.eu-isoe-west-1.cloud.adc-e.uk",
                "sts.eu-isoe-west-1.cloud.adc-e.uk",
            ),
            (
                "123456789012.dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
                "api.ecr.us-isof-south-1.csp.hci.ic.gov",
                "sts.us-isof-south-1.csp.hci.ic.gov",
            ),
            (
                "public.ecr.aws",
                "api.ecr-public.us-east-1.amazonaws.com",
                "sts.us-east-1.amazonaws.com",
            ),
        ] {
            let api = Api::of(host).unwrap_or_else(|| panic!("{host}"));
            assert_eq!(api.url, format!("https://{url}"), "{host}");
            assert_eq!(api.sts, format!("https://{sts}"), "{host}");
            assert_eq!(api.public, host == "public.ecr.aws");
            assert!(api.url.contains(&api.region) && !api.region.contains('.'));
        }
    }

    #[test]
    fn other_hosts_are_no_registries_of_aws() {
        for host in [
            "",
            "ghcr.io",
            "amazonaws.com",
            "dkr.ecr.eu-west-1.amazonaws.com",
            "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
            "1234567890123.dkr.ecr.eu-west-1.amazonaws.com",
            "12345678901a.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
            "123456789012.dkr.ecr.eu-west-1.evil.amazonaws.com",
            "123456789012.dkr.ecr.amazonaws.com",
            "123456789012.dkr.ecr..amazonaws.com",
            "123456789012.dkr.ecr.-x.amazonaws.com",
            "123456789012.dkr.ecrx.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com:443",
            "x.123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "gallery.public.ecr.aws",
        ] {
            assert_eq!(Api::of(host), None, "{host}");
        }
    }

    proptest! {
        /// No name, however odd, leads a signed request to a host that is not AWS's.
        #[test]
        fn the_api_is_always_below_a_domain_of_aws(
            account in "[0-9]{12}|[0-9a-z.]{0,14}",
            service in "dkr[.-]ecr(-fips)?|[a-z.-]{0,12}",
            region in "[a-zA-Z0-9_./@:#-]{0,12}",
            domain in prop::sample::select(vec!["amazonaws.com", "on.aws", "amazonaws.eu", "evil.example"]),
        ) {
            if let Some(api) = Api::of(&format!("{account}.{service}.{region}.{domain}")) {
                for url in [&api.url, &api.sts] {
                    let uri: http::Uri = url.parse().unwrap();
                    let host = uri.host().unwrap();
                    let ours = [".amazonaws.com", ".api.aws", ".amazonaws.eu"];
                    prop_assert!(ours.iter().any(|domain| host.ends_with(domain)), "{url}");
                    prop_assert!(uri.path() == "/" && uri.query().is_none());
                    let plain = format!("https://{host}");
                    prop_assert_eq!(url, &plain);
                }
            }
        }
    }
}
