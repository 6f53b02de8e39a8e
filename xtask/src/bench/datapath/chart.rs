//! The ratios to kernel VXLAN as a chart: SVG by hand, readable on light and on dark ground.

use std::fmt::Write as _;

use super::{
    mode::{Metric, Mode, Quantity},
    sample::{Samples, Spread},
};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 230.0;
/// Right of the bars, for their values.
const VALUES: f64 = 60.0;
const LEGEND: f64 = 170.0;
const BAR: f64 = 12.0;
const GAP: f64 = 12.0;
/// Of the longest bar, for whiskers.
const HEADROOM: f64 = 1.15;
const STYLE: &str = "\
svg{font:13px system-ui,sans-serif}text{fill:#1f2328}.dim{fill:#59636e}.grid{stroke:#d1d9e0}.one{stroke:#1f2328}\
.whisker{stroke:#1f2328;opacity:.55}.host{fill:#8c959f}.host-gw{fill:#bf8700}.vxlan-service{fill:#8250df}\
.vxlan-bare{fill:#bf3989}.ebpf{fill:#1a7f37}.ebpf-off{fill:#cf222e}.ebpf-service{fill:#0969da}\
.userspace{fill:#1a7f37}.plain{fill:#bf8700}.blocking{fill:#8c959f}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.dim{fill:#9198a1}.grid{stroke:#3d444d}.one{stroke:#f0f6fc}\
.whisker{stroke:#f0f6fc}.host{fill:#767e88}.host-gw{fill:#d29922}.vxlan-service{fill:#ab7df8}.vxlan-bare{fill:#db61a2}.ebpf{fill:#3fb950}\
.ebpf-off{fill:#f85149}.ebpf-service{fill:#4493f8}.userspace{fill:#3fb950}.plain{fill:#d29922}.blocking{fill:#767e88}}";

/// All wires, one below the other; kernel VXLAN itself is the line at 1.
pub(super) fn render(samples: Samples<'_>) -> String {
    let modes: Vec<Mode> = samples.modes().into_iter().filter(|mode| *mode != Mode::Vxlan).collect();
    let metrics: Vec<Metric> = samples.metrics().into_iter().collect();
    let ratio = |wire, metric, mode| samples.ratio(wire, (metric, Quantity::Rate), mode, Mode::Vxlan);
    let all = samples.wires().into_iter().flat_map(|wire| {
        let of = |metric: &Metric| modes.iter().filter_map(|mode| ratio(wire, *metric, *mode)).collect::<Vec<_>>();
        metrics.iter().flat_map(of).collect::<Vec<_>>()
    });
    // Room for the medians; a whisker that is longer ends at the edge.
    let largest = all.fold(1.5_f64, |largest, spread| largest.max(spread.median)) * HEADROOM;
    let scale = Scale { pixels: (WIDTH - LABELS - VALUES) / largest };

    let mut body = String::new();
    let mut y = legend(&mut body, &modes);
    for wire in samples.wires() {
        y += 30.0;
        text(&mut body, 0.0, y, "", wire.title());
        y += 10.0;
        let top = y;
        let mut bars = String::new();
        for metric in &metrics {
            text(&mut bars, LABELS - 10.0, y + middle(modes.len()), "end", metric.title());
            for mode in &modes {
                if let Some(spread) = ratio(wire, *metric, *mode) {
                    bar(&mut bars, scale, y, *mode, spread);
                }
                y += BAR;
            }
            y += GAP;
        }
        grid(&mut body, scale, largest, top, y - GAP);
        body += &bars;
        line(&mut body, "one", (scale.x(1.0), scale.x(1.0)), (top, y - GAP));
        y += 12.0;
    }
    let height = y + 6.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Ratios to kernel VXLAN\"><style>{STYLE}</style>\n{body}</svg>\n"
    )
}

#[derive(Clone, Copy)]
struct Scale {
    pixels: f64,
}

impl Scale {
    fn x(self, ratio: f64) -> f64 {
        LABELS + ratio * self.pixels
    }
}

fn class(mode: Mode) -> &'static str {
    match mode {
        Mode::Host => "host",
        Mode::HostGw => "host-gw",
        Mode::Vxlan => "vxlan",
        Mode::VxlanService => "vxlan-service",
        Mode::VxlanBare => "vxlan-bare",
        Mode::Ebpf => "ebpf",
        Mode::EbpfOff => "ebpf-off",
        Mode::EbpfService => "ebpf-service",
        Mode::Userspace => "userspace",
        Mode::UserspacePlain => "plain",
        Mode::Blocking => "blocking",
    }
}

/// Where the next thing may begin.
fn legend(body: &mut String, modes: &[Mode]) -> f64 {
    text(body, 0.0, 16.0, "", "Rates as ratios to kernel VXLAN (the line at 1); whiskers: all rounds");
    let (mut x, mut y) = (0.0, 28.0);
    for mode in modes {
        if x + LEGEND > WIDTH {
            (x, y) = (0.0, y + 20.0);
        }
        push(body, &format!("<rect class=\"{}\" x=\"{x:.0}\" y=\"{y}\" width=\"12\" height=\"12\"/>", class(*mode)));
        text(body, x + 18.0, y + 10.5, "", mode.title());
        x += LEGEND;
    }
    y + 16.0
}

fn grid(body: &mut String, scale: Scale, largest: f64, top: f64, bottom: f64) {
    let mut at = 0.0;
    while at <= largest {
        let x = scale.x(at);
        line(body, "grid", (x, x), (top, bottom));
        push(
            body,
            &format!("<text class=\"dim\" x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{at}</text>", bottom + 14.0),
        );
        at += 0.5;
    }
}

fn bar(body: &mut String, scale: Scale, y: f64, mode: Mode, spread: Spread) {
    let (width, middle) = (spread.median * scale.pixels, y + BAR / 2.0);
    push(
        body,
        &format!(
            "<rect class=\"{}\" x=\"{LABELS}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            class(mode),
            y + 1.0,
            BAR - 2.0
        ),
    );
    let edge = WIDTH - VALUES;
    let (from, to) = (scale.x(spread.min).min(edge), scale.x(spread.max).min(edge));
    line(body, "whisker", (from, to), (middle, middle));
    let (x, baseline) = (to.max(scale.x(spread.median)) + 6.0, y + BAR - 2.0);
    push(body, &format!("<text x=\"{x:.1}\" y=\"{baseline:.1}\" font-size=\"11\">{:.2}</text>", spread.median));
}

fn line(body: &mut String, class: &str, (x1, x2): (f64, f64), (y1, y2): (f64, f64)) {
    push(body, &format!("<line class=\"{class}\" x1=\"{x1:.1}\" x2=\"{x2:.1}\" y1=\"{y1:.1}\" y2=\"{y2:.1}\"/>"));
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let anchor = if anchor.is_empty() { "start" } else { anchor };
    push(body, &format!("<text x=\"{x:.0}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"));
}

fn push(body: &mut String, element: &str) {
    // Writing to a String cannot fail.
    writeln!(body, "{element}").expect("room in a string");
}

#[expect(clippy::cast_precision_loss, reason = "a handful of modes")]
fn middle(modes: usize) -> f64 {
    modes as f64 * BAR / 2.0 + 4.5
}

#[cfg(test)]
mod tests {
    use super::{
        super::{mode::Wire, sample::tests::sample},
        *,
    };

    #[test]
    fn the_longest_bar_fits_and_no_whisker_leaves_the_chart() {
        let of = |round, mode, rate| sample(Wire::Seg, round, Metric::Udp64, mode, rate);
        let all = [of(0, Mode::Vxlan, 1.0), of(0, Mode::Ebpf, 2.0), of(1, Mode::Vxlan, 1.0), of(1, Mode::Ebpf, 4.0)];
        let svg = render(Samples(&all));
        let room = (WIDTH - LABELS - VALUES) / HEADROOM;
        assert!(svg.contains(&format!("width=\"{room:.1}\"")), "the only median takes it all: {svg}");
        let whisker = svg.lines().find(|line| line.contains("class=\"whisker\"")).unwrap();
        assert!(whisker.contains(&format!("x2=\"{:.1}\"", WIDTH - VALUES)), "to the edge and no further: {whisker}");
        assert!(svg.contains(">3.00</text>") && svg.contains("W-seg"), "{svg}");
        assert_eq!(svg.matches("class=\"one\"").count(), 1, "one line at 1 for one wire");
        assert!(!svg.contains("class=\"vxlan\""), "kernel VXLAN is the line, not a bar");
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
