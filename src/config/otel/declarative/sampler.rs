//! The tree of samplers.

use crate::config::env::{Origin, Setting};
use crate::config::file::Node;
use crate::config::otel::declarative::reader::{Plugin, Reader, Section, join};
use crate::engine::sampler::{MAX_DEPTH, ParentBased, Ratio, SamplerSettings};

const KNOWN: [&str; 6] = [
    "always_on",
    "always_off",
    "trace_id_ratio_based",
    "parent_based",
    "probability/development",
    "composite/development",
];
/// Part of the standard, and not of this program.
const NOT_SUPPORTED: [&str; 3] = ["jaeger_remote/development", "rule_based", "always_record/development"];
const COMPOSITES: [&str; 4] = ["always_on", "always_off", "probability", "parent_threshold"];

impl Reader {
    /// A provider's sampler.
    pub(super) fn sampler(&mut self, provider: &Section<'_>) -> Setting<SamplerSettings> {
        let Some(node) = provider.node("sampler") else {
            return Setting::default(SamplerSettings::default());
        };
        let value = self.sampler_of(node, &join(&provider.at, "sampler"), 0);
        Setting { value, origin: Origin::File(node.line) }
    }

    /// The sampler that stands at `node`, unless it is too deep within others.
    fn nested<'n>(&mut self, node: &'n Node, at: &str, depth: usize) -> Option<Plugin<'n>> {
        let plugin = self.plugin(node, at)?;
        if depth > MAX_DEPTH {
            self.problem(plugin.line, at, format!("samplers within samplers, more than {MAX_DEPTH} deep"));
            return None;
        }
        Some(plugin)
    }

    fn sampler_of(&mut self, node: &Node, at: &str, depth: usize) -> SamplerSettings {
        let Some(plugin) = self.nested(node, at, depth) else { return SamplerSettings::default() };
        match plugin.name {
            "always_on" => {
                self.section(plugin.node, &plugin.at, &[]);
                SamplerSettings::AlwaysOn
            }
            "always_off" => {
                self.section(plugin.node, &plugin.at, &[]);
                SamplerSettings::AlwaysOff
            }
            "trace_id_ratio_based" | "probability/development" => self.ratio_sampler(plugin.node, &plugin.at),
            "parent_based" => self.parent_based(plugin.node, &plugin.at, depth),
            "composite/development" => self.composite(plugin.node, &plugin.at, depth),
            _ => {
                self.unknown_sampler(plugin.name, plugin.line, &plugin.at, &KNOWN);
                SamplerSettings::default()
            }
        }
    }

    fn unknown_sampler(&mut self, name: &str, line: u64, at: &str, known: &[&str]) {
        let message = if NOT_SUPPORTED.contains(&name) {
            format!("this sampler is not supported; these are: `{}`", known.join("`, `"))
        } else {
            format!("this does not exist here; known here: `{}`", known.join("`, `"))
        };
        self.problem(line, at, message);
    }

    fn ratio_sampler(&mut self, node: &Node, at: &str) -> SamplerSettings {
        let section = self.section(node, at, &["ratio"]);
        let all = Ratio::new(1.0).expect("1 is from 0 to 1");
        SamplerSettings::Ratio(self.ratio(&section, "ratio").map_or(all, |ratio| ratio.value))
    }

    fn parent_based(&mut self, node: &Node, at: &str, depth: usize) -> SamplerSettings {
        let branches = [
            ("root", SamplerSettings::AlwaysOn),
            ("remote_parent_sampled", SamplerSettings::AlwaysOn),
            ("remote_parent_not_sampled", SamplerSettings::AlwaysOff),
            ("local_parent_sampled", SamplerSettings::AlwaysOn),
            ("local_parent_not_sampled", SamplerSettings::AlwaysOff),
        ];
        let section = self.section(node, at, &branches.each_ref().map(|(key, _)| *key));
        let [root, remote_sampled, remote_not_sampled, local_sampled, local_not_sampled] =
            branches.map(|(key, default)| match section.node(key) {
                Some(node) => self.sampler_of(node, &join(at, key), depth + 1),
                None => default,
            });
        SamplerSettings::ParentBased(Box::new(ParentBased {
            root,
            remote_sampled,
            remote_not_sampled,
            local_sampled,
            local_not_sampled,
        }))
    }

    /// Composable samplers, as far as they are the others under another name. Its `always_on` says so in `th:0`.
    fn composite(&mut self, node: &Node, at: &str, depth: usize) -> SamplerSettings {
        let Some(plugin) = self.nested(node, at, depth) else { return SamplerSettings::default() };
        match plugin.name {
            "always_on" => {
                self.section(plugin.node, &plugin.at, &[]);
                SamplerSettings::Ratio(Ratio::new(1.0).expect("1 is from 0 to 1"))
            }
            "always_off" => {
                self.section(plugin.node, &plugin.at, &[]);
                SamplerSettings::AlwaysOff
            }
            "probability" => self.ratio_sampler(plugin.node, &plugin.at),
            "parent_threshold" => {
                let section = self.section(plugin.node, &plugin.at, &["root"]);
                let key = join(&plugin.at, "root");
                let Some(root) = section.node("root") else {
                    self.problem(plugin.line, &key, "one is needed".to_owned());
                    return SamplerSettings::default();
                };
                SamplerSettings::parent_based(self.composite(root, &key, depth + 1))
            }
            _ => {
                self.unknown_sampler(plugin.name, plugin.line, &plugin.at, &COMPOSITES);
                SamplerSettings::default()
            }
        }
    }
}
