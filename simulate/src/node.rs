//! The nodes: what each pulls, and when it begins and dies. All this is drawn at random here, in advance.

use crate::{
    catalog::{Catalog, pick_image},
    pull::Pull,
    scenario::Scenario,
};

#[derive(Debug)]
pub struct Node {
    pub image: usize,
    pub begins: f64,
    pub dies: f64,
    /// Whether it becomes a member only when it begins.
    pub joins: bool,
    pub began: bool,
    pub dead: bool,
    pub finished: Option<f64>,
    /// Blobs that have not begun.
    pub waiting: std::ops::Range<usize>,
    pub pulls: Vec<Pull>,
}

/// All nodes of a scenario, in no order. Deaths and arrivals are spread over the time that the image takes at the rate
/// of a node's link.
pub fn all(scenario: &Scenario, catalog: &Catalog, random: &mut fastrand::Rng) -> Vec<Node> {
    let pulling = scenario.image() as f64 / scenario.down.min(scenario.up);
    let share = |part: f64| (part * scenario.nodes as f64).round() as usize;
    let (dying, joining) = (share(scenario.dying), share(scenario.joining));
    let mut nodes: Vec<Node> = (0..scenario.nodes)
        .map(|index| {
            let image = pick_image(scenario.images, scenario.zipf, random);
            let joins = index < joining;
            let late = if joins { pulling } else { scenario.spread };
            let begins = random.f64() * late;
            let dies = (joining..joining + dying).contains(&index);
            Node {
                image,
                begins,
                dies: if dies {
                    random.f64() * pulling
                } else {
                    f64::INFINITY
                },
                joins,
                began: false,
                dead: false,
                finished: None,
                waiting: catalog.blobs_of(image),
                pulls: Vec::new(),
            }
        })
        .collect();
    random.shuffle(&mut nodes);
    nodes
}
