//! What all charts share: a canvas in page pixels on plotters' SVG backend, axes with ticks at
//! 1-2-5, marks, and the one map from colours to the page's variables.

use plotters::coord::Shift;
use plotters::element::{Circle, Cross, PathElement, Rectangle};
use plotters::prelude::{DrawingArea, IntoDrawingArea, IntoFont, RGBColor, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, ShapeStyle, TextStyle};

/// plotters draws on whole pixels: a finer grid keeps curves smooth.
const FINE: i32 = 4;
/// Text size on the page, px.
const TEXT: f64 = 12.0;

/// A colour by its role. Okabe-Ito for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Behind everything: white in files, which may be shown on any ground.
    Paper,
    /// Text and marks that matter.
    Main,
    /// Text beside the data.
    Muted,
    /// Grid.
    Grid,
    /// What lies outside the window.
    Shade,
    /// First series: blue.
    First,
    /// Second series: vermillion, dashed where it is a line.
    Second,
    /// First series, where too few samples stand behind it.
    FirstPale,
    /// Second series, where too few samples stand behind it.
    SecondPale,
}

/// Role, colour in files, value on a page and dash of its lines: the one place that maps them.
const COLORS: [(Ink, RGBColor, &str, &str); 9] = [
    (Ink::Paper, RGBColor(0xFF, 0xFF, 0xFF), "none", ""),
    (Ink::Main, RGBColor(0x1F, 0x23, 0x28), "currentColor", ""),
    (Ink::Muted, RGBColor(0x59, 0x63, 0x6E), "var(--muted)", ""),
    (Ink::Grid, RGBColor(0xDD, 0xE2, 0xE7), "var(--grid)", ""),
    (Ink::Shade, RGBColor(0xEE, 0xF1, 0xF4), "var(--shade)", ""),
    (Ink::First, RGBColor(0x00, 0x72, 0xB2), "var(--s1)", ""),
    (
        Ink::Second,
        RGBColor(0xD5, 0x5E, 0x00),
        "var(--s2)",
        "20 14",
    ),
    (
        Ink::FirstPale,
        RGBColor(0x8F, 0xBC, 0xD9),
        "var(--s1-pale)",
        "",
    ),
    (
        Ink::SecondPale,
        RGBColor(0xE3, 0xB4, 0x8F),
        "var(--s2-pale)",
        "20 14",
    ),
];

impl Ink {
    fn rgb(self) -> RGBColor {
        COLORS
            .iter()
            .find(|(ink, ..)| *ink == self)
            .map_or(RGBColor(0, 0, 0), |(_, rgb, ..)| *rgb)
    }

    /// The same where too few samples stand behind what is drawn.
    pub fn pale(self) -> Self {
        match self {
            Self::First => Self::FirstPale,
            Self::Second => Self::SecondPale,
            other => other,
        }
    }
}

fn hex(rgb: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", rgb.0, rgb.1, rgb.2)
}

/// The colours of a document as variables of the page.
pub fn inline(svg: &str) -> String {
    COLORS
        .iter()
        .fold(svg.to_owned(), |svg, (_, rgb, page, _)| {
            svg.replace(&format!("\"{}\"", hex(*rgb)), &format!("\"{page}\""))
        })
}

/// How a text hangs on its point.
#[derive(Debug, Clone, Copy)]
pub enum Hang {
    /// Begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// Ends there.
    End,
}

/// A mark of one trial; its shape says what it is, in any colour.
#[derive(Debug, Clone, Copy)]
pub enum Dot {
    /// Valid.
    Full,
    /// Degraded.
    Open,
    /// Left out.
    Cross,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws in page pixels.
pub struct Canvas<'a> {
    area: Area<'a>,
}

impl Canvas<'_> {
    /// A line of text, vertically centred on its point.
    pub fn text(&self, text: &str, at: (f64, f64), hang: Hang, ink: Ink, bold: bool) {
        let h_pos = match hang {
            Hang::Start => HPos::Left,
            Hang::Middle => HPos::Center,
            Hang::End => HPos::Right,
        };
        let font = ("system-ui, sans-serif", TEXT * 1.24 * f64::from(FINE)).into_font();
        let font = if bold {
            font.style(plotters::style::FontStyle::Bold)
        } else {
            font
        };
        let color = ink.rgb();
        let style = TextStyle::from(font)
            .color(&color)
            .pos(Pos::new(h_pos, VPos::Center));
        self.area.draw_text(text, &style, fine(at)).ok();
    }

    /// A line through points.
    pub fn line(&self, points: impl IntoIterator<Item = (f64, f64)>, ink: Ink, px: f64) {
        let points: Vec<(i32, i32)> = points.into_iter().map(fine).collect();
        if points.len() > 1 {
            self.area
                .draw(&PathElement::new(points, stroke(ink, px)))
                .ok();
        }
    }

    /// A filled box.
    pub fn fill(&self, from: (f64, f64), to: (f64, f64), ink: Ink) {
        let style = ink.rgb().filled();
        self.area
            .draw(&Rectangle::new([fine(from), fine(to)], style))
            .ok();
    }

    /// The mark of a trial.
    pub fn dot(&self, at: (f64, f64), dot: Dot, ink: Ink) {
        let radius = FINE * 7 / 2;
        match dot {
            Dot::Full => {
                let circle = Circle::new(fine(at), radius, ink.rgb().filled());
                self.area.draw(&circle).ok();
            }
            Dot::Open => {
                let circle = Circle::new(fine(at), radius, stroke(ink, 1.5));
                self.area.draw(&circle).ok();
            }
            Dot::Cross => {
                let cross = Cross::new(fine(at), radius, stroke(ink, 1.5));
                self.area.draw(&cross).ok();
            }
        }
    }
}

fn fine((x, y): (f64, f64)) -> (i32, i32) {
    let scaled = |v: f64| (v * f64::from(FINE)).round() as i32;
    (scaled(x), scaled(y))
}

fn stroke(ink: Ink, px: f64) -> ShapeStyle {
    let width = (px * f64::from(FINE)).round() as u32;
    ink.rgb().stroke_width(width)
}

/// Draws on a canvas of that size and returns the document.
pub fn document(size: (u32, u32), title: &str, desc: &str, draw: impl FnOnce(&Canvas)) -> String {
    let mut svg = String::new();
    let fine = FINE.unsigned_abs();
    {
        let area =
            SVGBackend::with_string(&mut svg, (size.0 * fine, size.1 * fine)).into_drawing_area();
        let canvas = Canvas { area: area.clone() };
        let corner = (f64::from(size.0), f64::from(size.1));
        canvas.fill((0.0, 0.0), corner, Ink::Paper);
        draw(&canvas);
        // Writing to a string does not fail.
        area.present().ok();
    }
    finish(&svg, size, title, desc)
}

/// Gives the document its size on the page, its title and description, and the dashes.
fn finish(svg: &str, size: (u32, u32), title: &str, desc: &str) -> String {
    let fine = FINE.unsigned_abs();
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" \
         viewBox=\"0 0 {} {}\" role=\"img\">\n<title>{}</title>\n<desc>{}</desc>{body}",
        size.0,
        size.1,
        size.0 * fine,
        size.1 * fine,
        escape(title),
        escape(desc),
    );
    for (_, rgb, _, dash) in COLORS {
        if !dash.is_empty() {
            let lines = format!(
                "<polyline fill=\"none\" opacity=\"1\" stroke=\"{}\"",
                hex(rgb)
            );
            out = out.replace(&lines, &format!("{lines} stroke-dasharray=\"{dash}\""));
        }
    }
    out
}

/// Pixels of the line below a chart that stands alone.
const FOOT: u32 = 20;

/// A document of that size with a line of text below it: what must be known of a chart that is
/// shown without its page.
pub fn with_foot(svg: &str, size: (u32, u32), text: &str) -> String {
    let fine = FINE.unsigned_abs();
    let (width, height) = size;
    let taller = height + FOOT;
    let foot = format!(
        "<rect x=\"0\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>\n<text x=\"{}\" y=\"{}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"{}\" fill=\"{}\">{}</text>\n</svg>",
        height * fine,
        width * fine,
        FOOT * fine,
        hex(Ink::Paper.rgb()),
        8 * fine,
        (taller - 7) * fine,
        TEXT * f64::from(FINE),
        hex(Ink::Muted.rgb()),
        escape(text)
    );
    let head = |height: u32| {
        format!(
            "height=\"{height}\" viewBox=\"0 0 {} {}\"",
            width * fine,
            height * fine
        )
    };
    let body = svg.trim_end().strip_suffix("</svg>").unwrap_or(svg);
    format!("{}{foot}\n", body.replacen(&head(height), &head(taller), 1))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A range of values on a range of pixels.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// Values, smallest and largest.
    pub values: (f64, f64),
    /// Where they stand.
    pub pixels: (f64, f64),
    /// In powers instead of sums.
    pub log: bool,
}

impl Axis {
    /// From zero to a little above `largest`.
    pub fn from_zero(largest: f64, pixels: (f64, f64)) -> Self {
        let largest = if largest > 0.0 { largest * 1.06 } else { 1.0 };
        Self {
            values: (0.0, largest),
            pixels,
            log: false,
        }
    }

    /// Around positive values, at least a factor of ten wide, ends at 1-2-5.
    pub fn log(values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Option<Self> {
        let (lo, hi) = values
            .filter(|v| *v > 0.0)
            .fold((f64::INFINITY, 0.0_f64), |(lo, hi), v| {
                (lo.min(v), hi.max(v))
            });
        (hi > 0.0).then(|| {
            let middle = (lo * hi).sqrt();
            let (lo, hi) = (lo.min(middle / 3.0), hi.max(middle * 3.0));
            Self {
                values: (step_below(lo), step_above(hi)),
                pixels,
                log: true,
            }
        })
    }

    /// The pixel of a value.
    pub fn at(&self, value: f64) -> f64 {
        let (lo, hi) = self.values;
        let share = if self.log {
            (value.max(lo) / lo).ln() / (hi / lo).ln()
        } else {
            (value - lo) / (hi - lo)
        };
        self.pixels.0 + share.clamp(0.0, 1.0) * (self.pixels.1 - self.pixels.0)
    }

    /// Ticks at 1-2-5; on a wide log axis only the ones.
    pub fn ticks(&self, about: usize) -> Vec<f64> {
        let (lo, hi) = self.values;
        if self.log {
            return log_ticks(lo, hi, about);
        }
        let rough = (hi - lo) / about.max(1) as f64;
        let step = step_above(rough);
        let first = (lo / step).ceil() as i64;
        (first..)
            .map(|i| i as f64 * step)
            .take_while(|v| *v <= hi * 1.000_001)
            .take(50)
            .collect()
    }
}

fn log_ticks(lo: f64, hi: f64, about: usize) -> Vec<f64> {
    let of = |steps: &[f64]| -> Vec<f64> {
        let first = lo.log10().floor() as i32;
        let last = hi.log10().ceil() as i32;
        (first..=last)
            .flat_map(|power| steps.iter().map(move |s| s * 10_f64.powi(power)))
            .filter(|v| *v >= lo * 0.999_999 && *v <= hi * 1.000_001)
            .collect()
    };
    let dense = of(&[1.0, 2.0, 5.0]);
    if dense.len() <= about + 1 {
        dense
    } else {
        of(&[1.0])
    }
}

/// The largest 1-2-5 that is at most `value`.
fn step_below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0]
        .into_iter()
        .map(|s| s * power)
        .find(|s| *s <= value * 1.000_001)
        .unwrap_or(power)
}

/// The smallest 1-2-5 that is at least `value`.
fn step_above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|s| s * power)
        .find(|s| *s >= value * 0.999_999)
        .unwrap_or(power * 10.0)
}

/// A rate on an axis: `0`, `500`, `2k`, `1.5M`.
pub fn rate_tick(per_s: f64) -> String {
    if per_s == 0.0 {
        return "0".into();
    }
    crate::units::short_rate(per_s)
        .trim_end_matches("/s")
        .to_owned()
}

/// A time on an axis, as short as a 1-2-5 can be: `50 us`, `2 ms`.
pub fn ns_tick(ns: f64) -> String {
    for (unit_ns, unit) in [(1e9, "s"), (1e6, "ms"), (1e3, "us")] {
        if ns >= unit_ns * 0.999_999 {
            let text = format!("{:.1}", ns / unit_ns);
            return format!("{} {unit}", text.trim_end_matches(".0"));
        }
    }
    format!("{ns:.0} ns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_at_one_two_five() {
        let linear = Axis::from_zero(4_998.0, (0.0, 100.0));
        assert_eq!(linear.ticks(5), [0.0, 2_000.0, 4_000.0]);
        let log = Axis::log([300_000.0, 9e6].into_iter(), (0.0, 100.0)).expect("positive");
        assert_eq!(log.values, (2e5, 1e7));
        assert_eq!(log.ticks(8), [2e5, 5e5, 1e6, 2e6, 5e6, 1e7]);
        assert!(Axis::log([0.0].into_iter(), (0.0, 1.0)).is_none());
    }

    #[test]
    fn ticks_are_named_shortly() {
        assert_eq!(rate_tick(2_000.0), "2k");
        assert_eq!(ns_tick(5e5), "500 us");
        assert_eq!(ns_tick(2e6), "2 ms");
        assert_eq!(ns_tick(1e9), "1 s");
    }

    #[test]
    fn text_and_title_cannot_leave_their_element() {
        let svg = document((10, 10), "<script>", "a & b", |canvas| {
            canvas.text("</text><script>", (1.0, 1.0), Hang::Start, Ink::Main, false);
        });
        assert!(!svg.contains("<script"), "{svg}");
        assert!(svg.contains("a &amp; b"));
        assert!(inline(&svg).contains("currentColor"));
    }

    #[test]
    fn a_foot_stands_below_the_chart() {
        let svg = document((100, 50), "t", "d", |_| ());
        let footed = with_foot(&svg, (100, 50), "a & b");
        assert!(
            footed.contains("height=\"70\" viewBox=\"0 0 400 280\""),
            "{footed}"
        );
        assert!(footed.trim_end().ends_with("a &amp; b</text>\n</svg>"));
        assert_eq!(footed.matches("</svg>").count(), 1);
    }
}
