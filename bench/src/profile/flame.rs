//! Flame graphs: stacks folded into a tree, drawn as an SVG that any browser shows. The wider a box, the more of the
//! time was spent in it and above it.

use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 1800.0;
const ROW: f64 = 16.0;
/// Boxes that are narrower are left out: nobody could read them.
const NARROWEST: f64 = 0.3;
const CHAR: f64 = 6.6;

/// Samples by stack, the outermost function first.
pub(super) type Stacks = BTreeMap<Vec<String>, u64>;

#[derive(Default)]
struct Frame {
    samples: u64,
    inner: BTreeMap<String, Frame>,
}

/// Reads what `perf script` prints: a line with the program, then one for each function, the innermost first, and an
/// empty line behind each sample.
pub(super) fn fold(script: &str) -> Stacks {
    let mut stacks = Stacks::new();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(program) = lines.next() else { continue };
        let functions = lines.map(|line| line.trim().split_once(' ').map_or("?", |(_, symbol)| symbol).to_owned());
        let mut stack: Vec<String> = functions.collect();
        stack.push(program.trim().to_owned());
        stack.reverse();
        *stacks.entry(stack).or_default() += 1;
    }
    stacks
}

/// The graph of `stacks` as SVG.
pub(super) fn draw(title: &str, stacks: &Stacks) -> String {
    let mut root = Frame::default();
    for (stack, samples) in stacks {
        let mut frame = &mut root;
        frame.samples += samples;
        for name in stack {
            frame = frame.inner.entry(name.clone()).or_default();
            frame.samples += samples;
        }
    }
    let depth = stacks.keys().map(Vec::len).max().unwrap_or(0) + 1;
    let height = (depth + 2) as f64 * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let whole = format!("{title} ({} samples)", root.samples);
    let scale = WIDTH / root.samples.max(1) as f64;
    draw_frame(&mut svg, &whole, &root, 0.0, height - 2.0 * ROW, scale);
    svg.push_str("</svg>\n");
    svg
}

fn draw_frame(svg: &mut String, name: &str, frame: &Frame, x: f64, y: f64, scale: f64) {
    let width = frame.samples as f64 * scale;
    if width < NARROWEST {
        return;
    }
    // A colour of its own for each name, the same in every graph.
    let hue = name.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte))) % 50;
    let percent = 100.0 * width / WIDTH;
    let text = escape(name);
    let label: String = name.chars().take((width / CHAR) as usize).collect();
    // Writing into a string does not fail.
    let _ = writeln!(
        svg,
        "<g><title>{text} {percent:.1} %</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
         fill=\"hsl({hue},80%,68%)\" stroke=\"#fff\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
        ROW,
        x + 2.0,
        y + 12.0,
        escape(&label)
    );
    let mut x = x;
    for (name, inner) in &frame.inner {
        draw_frame(svg, name, inner, x, y - ROW, scale);
        x += inner.samples as f64 * scale;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "ingest \n\t 55 parse<T>\n\t 54 main\n\ningest \n\t 55 parse<T>\n\t 54 main\n\n\
                          ingest \n\t 56 write\n\t 54 main\n\n";

    #[test]
    fn stacks_are_counted_from_the_outside_in() {
        let stacks = fold(SCRIPT);
        let stack = |names: [&str; 3]| names.map(str::to_owned).to_vec();
        assert_eq!(stacks.get(&stack(["ingest", "main", "parse<T>"])), Some(&2));
        assert_eq!(stacks.get(&stack(["ingest", "main", "write"])), Some(&1));
    }

    #[test]
    fn a_box_is_as_wide_as_its_part_of_the_samples() {
        let svg = draw("ingest", &fold(SCRIPT));
        assert!(svg.contains("<title>parse&lt;T&gt; 66.7 %</title>"), "{svg}");
        assert!(svg.contains("<title>main 100.0 %</title>"), "{svg}");
        assert!(svg.contains("ingest (3 samples)"), "{svg}");
    }
}
