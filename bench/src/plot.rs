//! Grouped bar charts as SVG.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 36.0;
/// Colours that remain distinct for colour-blind readers (Okabe and Ito, 2008).
const COLOURS: [&str; 6] = [
    "#999999", "#e69f00", "#56b4e9", "#f0e442", "#0072b2", "#d55e00",
];

/// A chart: for each group, one bar of each series.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) series: Vec<String>,
    /// Label of each group, and its values in the order of the series. `None` draws no bar.
    pub(crate) groups: Vec<(String, Vec<Option<f64>>)>,
}

impl Chart {
    /// Returns the chart as a document. The background is white, so that it is readable on any
    /// page.
    pub(crate) fn render(&self) -> String {
        let mut svg = String::new();
        let out = &mut svg;
        put(
            out,
            &format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
                 font-family=\"sans-serif\" font-size=\"12\">\n\
                 <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
                 <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>",
                self.title
            ),
        );
        self.legend(out);
        let step = step(self.max());
        let top = (self.max() / step).ceil() * step;
        let scale = (HEIGHT - TOP - BOTTOM) / top;
        self.axis(out, step, top, scale);
        self.bars(out, scale);
        put(out, "</svg>");
        svg
    }

    fn max(&self) -> f64 {
        let values = self.groups.iter().flat_map(|(_, values)| values);
        values.flatten().copied().fold(1.0, f64::max)
    }

    fn legend(&self, out: &mut String) {
        let mut x = LEFT;
        for (name, colour) in self.series.iter().zip(COLOURS) {
            put(
                out,
                &format!(
                    "<rect x=\"{x:.0}\" y=\"35\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
                     <text x=\"{:.0}\" y=\"45\">{name}</text>",
                    x + 17.0
                ),
            );
            x += 34.0 + 6.5 * name.chars().count() as f64;
        }
    }

    fn axis(&self, out: &mut String, step: f64, top: f64, scale: f64) {
        let mut value = 0.0;
        while value <= top + step / 2.0 {
            let y = HEIGHT - BOTTOM - value * scale;
            put(
                out,
                &format!(
                    "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{WIDTH}\" y2=\"{y:.1}\" \
                     stroke=\"#dddddd\"/><text x=\"{:.0}\" y=\"{:.1}\" \
                     text-anchor=\"end\">{value:.0}</text>",
                    LEFT - 6.0,
                    y + 4.0
                ),
            );
            value += step;
        }
    }

    fn bars(&self, out: &mut String, scale: f64) {
        let group_width = (WIDTH - LEFT) / self.groups.len().max(1) as f64;
        let bar_width = group_width * 0.8 / self.series.len().max(1) as f64;
        for (group, (label, values)) in self.groups.iter().enumerate() {
            let start = LEFT + group_width * (group as f64 + 0.1);
            put(
                out,
                &format!(
                    "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
                    start + group_width * 0.4,
                    HEIGHT - BOTTOM + 20.0
                ),
            );
            for (series, (value, colour)) in values.iter().zip(COLOURS).enumerate() {
                let Some(value) = value else { continue };
                let height = value * scale;
                put(
                    out,
                    &format!(
                        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" \
                         fill=\"{colour}\"><title>{value:.0}</title></rect>",
                        start + bar_width * series as f64,
                        HEIGHT - BOTTOM - height,
                        bar_width * 0.92
                    ),
                );
            }
        }
    }
}

/// Returns a round distance of the lines of an axis.
fn step(max: f64) -> f64 {
    let magnitude = 10_f64.powf(max.log10().floor());
    let steps = [0.2, 0.5, 1.0, 2.0];
    let fits = |step: &f64| max / (step * magnitude) <= 6.0;
    steps.into_iter().find(fits).unwrap_or(2.0) * magnitude
}

fn put(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("a string accepts every write");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_a_few_round_lines() {
        for (max, expected) in [
            (9.0, 2.0),
            (742.0, 200.0),
            (1000.0, 200.0),
            (26_000.0, 5_000.0),
        ] {
            assert_eq!(step(max), expected, "max={max}");
        }
    }
}
