//! The visitor's choices in the query: the chart's span, and the images' filter, order and page.

use url::form_urlencoded;

/// How far back the chart goes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Span {
    Hour,
    #[default]
    Day,
}

impl Span {
    pub const ALL: [Self; 2] = [Self::Hour, Self::Day];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// The number of columns, and the minutes of each.
    pub const fn columns(self) -> (usize, usize) {
        match self {
            Self::Hour => (60, 1),
            Self::Day => (96, 15),
        }
    }
}

/// The key by which images are sorted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Sort {
    Name,
    Size,
    #[default]
    Used,
}

impl Sort {
    pub const ALL: [Self; 3] = [Self::Name, Self::Size, Self::Used];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Size => "size",
            Self::Used => "used",
        }
    }

    /// The default order: names from A, sizes from the largest, uses from the newest.
    pub const fn first(self) -> Order {
        match self {
            Self::Name => Order::Up,
            Self::Size | Self::Used => Order::Down,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    Up,
    Down,
}

impl Order {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    pub const fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// The longest filter in characters; the rest is cut off.
const FILTER: usize = 200;

/// A visitor's choices. A value that larder does not know counts as absent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Query {
    pub span: Span,
    pub filter: String,
    pub sort: Sort,
    pub order: Order,
    /// The page of the list, from 0.
    pub leaf: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            span: Span::default(),
            filter: String::new(),
            sort: Sort::default(),
            order: Sort::default().first(),
            leaf: 0,
        }
    }
}

impl Query {
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        let mut order = None;
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "span" => query.span = word(&Span::ALL, Span::as_str, &value).unwrap_or_default(),
                "filter" => query.filter = value.chars().take(FILTER).collect(),
                "sort" => query.sort = word(&Sort::ALL, Sort::as_str, &value).unwrap_or_default(),
                "order" => order = word(&[Order::Up, Order::Down], Order::as_str, &value),
                "page" => query.leaf = value.parse::<usize>().unwrap_or(1).saturating_sub(1),
                _ => {}
            }
        }
        query.order = order.unwrap_or(query.sort.first());
        query
    }

    /// The link to the page with these choices; defaults are left out.
    pub fn link(&self) -> String {
        let mut pairs = form_urlencoded::Serializer::for_suffix(String::from("?"), 1);
        pairs.extend_pairs(self.pairs());
        if self.leaf > 0 {
            pairs.append_pair("page", &(self.leaf + 1).to_string());
        }
        pairs.finish()
    }

    /// The choices that differ from the defaults, except for the page of the list.
    pub fn pairs(&self) -> Vec<(&'static str, &str)> {
        let mut pairs = Vec::new();
        if self.span != Span::default() {
            pairs.push(("span", self.span.as_str()));
        }
        if !self.filter.is_empty() {
            pairs.push(("filter", &*self.filter));
        }
        if self.sort != Sort::default() {
            pairs.push(("sort", self.sort.as_str()));
        }
        if self.order != self.sort.first() {
            pairs.push(("order", self.order.as_str()));
        }
        pairs
    }
}

fn word<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, said: &str) -> Option<T> {
    all.iter().copied().find(|one| name(*one) == said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_what_it_was_made_of() {
        assert_eq!(Query::default().link(), "?");
        let all = "?span=hour&filter=a%26b+%22&sort=name&order=down&page=3";
        let query = Query::parse(&all[1..]);
        assert_eq!(query.filter, "a&b \"");
        assert_eq!((query.sort, query.order), (Sort::Name, Order::Down));
        assert_eq!((query.span, query.leaf), (Span::Hour, 2));
        assert_eq!(query.link(), all);
    }

    #[test]
    fn nonsense_counts_as_not_said() {
        for text in ["", "sort=x&order=&page=-1&span=year&y", "page=0&sort=used"] {
            assert_eq!(Query::parse(text), Query::default(), "{text}");
        }
        let long = format!("filter={}", "x".repeat(10_000));
        assert_eq!(Query::parse(&long).filter.len(), FILTER);
        // Without `order`, each key has its default order.
        assert_eq!(Query::parse("sort=size").order, Order::Down);
        assert_eq!(Query::parse("sort=name").order, Order::Up);
    }
}
