//! A frame on a terminal.

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize as _};
use ratatui::text::{Line as Text, Text as Lines};
use ratatui::widgets::{Block, Borders, Paragraph, Row as Cells, Table};

use super::frame::{Frame, Row};
use crate::cli::state_lines::Line;

/// Lines below the state that are left for rates, as long as there are so many.
const RATES: u16 = 8;

/// Draws `frame`. What does not fit is left out below, and how much that is, is said.
pub(super) fn draw(canvas: &mut ratatui::Frame<'_>, frame: &Frame) {
    let Rect { width, height, .. } = canvas.area();
    let room = height.saturating_sub(RATES).max(height / 2);
    let lines = state(&frame.lines, usize::from(width), usize::from(room));
    let state = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(1);
    let verdicts = u16::try_from(frame.verdicts.len()).unwrap_or(u16::MAX).saturating_add(2);
    let [head, top, below] = Layout::vertical([
        Constraint::Length(state),
        Constraint::Length(verdicts),
        Constraint::Min(0),
    ])
    .areas(canvas.area());
    canvas.render_widget(Paragraph::new(Lines::from(lines)), head);
    table(canvas, top, "verdict", &frame.verdicts);
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(below);
    table(canvas, left, "reason", &frame.reasons);
    table(canvas, right, "set", &frame.sets);
}

/// The state in lines of at most `width` characters and at most `room` of them.
fn state(lines: &[Line], width: usize, room: usize) -> Vec<Text<'static>> {
    let mut shown: Vec<Text<'_>> = Vec::new();
    for line in lines {
        for part in folded(&line.text, width) {
            let text = Text::from(part);
            shown.push(if line.urgent { text.bold().red() } else { text });
        }
    }
    if shown.len() > room {
        let left_out = shown.len().saturating_sub(room).saturating_add(1);
        shown.truncate(room.saturating_sub(1));
        shown.push(Text::from(format!("… {left_out} more lines: `breakout365 status`")));
    }
    shown
}

/// A text in lines of at most `width` characters, broken between words where that can be.
fn folded(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width {
        let fits = rest.get(..=width).unwrap_or_default();
        let at = fits.iter().rposition(|it| *it == ' ').filter(|at| *at > 0).unwrap_or(width);
        lines.push(rest.drain(..at).collect());
        if rest.first() == Some(&' ') {
            rest.remove(0);
        }
    }
    lines.push(rest.into_iter().collect());
    lines
}

fn table(canvas: &mut ratatui::Frame<'_>, area: Rect, head: &str, rows: &[Row]) {
    let [packets_per_second, bits_per_second, _] = Row::HEADS;
    // Of the area, border and head take a line each.
    let room = usize::from(area.height.saturating_sub(2));
    let shown = if rows.len() > room { room.saturating_sub(1) } else { rows.len() };
    let mut cells: Vec<Cells<'_>> = rows
        .iter()
        .take(shown)
        .map(|row| {
            let [packets_per_second, bits_per_second, _] = row.cells();
            Cells::new([row.name.clone(), packets_per_second, bits_per_second])
        })
        .collect();
    if shown < rows.len() {
        cells.push(Cells::new([format!("… {} more", rows.len().saturating_sub(shown))]));
    }
    let widths = [Constraint::Min(14), Constraint::Length(10), Constraint::Length(8)];
    let heads = Cells::new([head.to_owned(), packets_per_second.into(), bits_per_second.into()]);
    let table = Table::new(cells, widths)
        .header(heads.style(Style::new().bold()))
        .block(Block::new().borders(Borders::TOP));
    canvas.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::top::frame::tests::observation;
    use crate::observe::SetTraffic;

    fn drawn(frame: &Frame, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|canvas| draw(canvas, frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn state_rates_and_names_are_on_the_screen() {
        let (before, now) = (observation("a", 1000), observation("a", 3000));
        let frame = Frame::of(&before, &now, Duration::from_secs(2));
        let screen = drawn(&frame, 80, 20);
        for words in [
            "generation 7, feed none yet, daemon 42",
            "uplink  not kept",
            "direct",
            "no_prefix",
            "1 Exchange",
        ] {
            assert!(screen.contains(words), "{words}:\n{screen}");
        }
        let line = screen.lines().find(|line| line.contains("no_prefix")).unwrap();
        assert!(line.contains("3000") && line.contains("2400 k"), "{line}");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_urgent_lines_are_whole() {
        let mut now = observation("a", 1);
        let problem = "a long problem with many words ".repeat(6);
        now.problem = Some(problem.clone());
        let set = now.traffic.sets[0].clone();
        now.traffic.sets = (1..=40).map(|id| SetTraffic { id, ..set.clone() }).collect();
        let frame = Frame::of(&now, &now, Duration::from_secs(1));
        let screen = drawn(&frame, 60, 30);
        assert_eq!(screen.matches("many").count(), 6, "{screen}");
        let named: Vec<u32> =
            (1..=40).filter(|id| screen.contains(&format!("{id} Exchange"))).collect();
        let more = format!("… {} more", 41 - named.len());
        assert!(screen.contains("1 Exchange") && screen.contains(&more), "{more}:\n{screen}");
        let narrow = drawn(&frame, 30, 12);
        assert!(narrow.contains("more lines"), "{narrow}");
        assert!(narrow.contains("direct"), "{narrow}");
    }

    #[test]
    fn lines_are_broken_between_words_and_nothing_is_lost() {
        assert_eq!(folded("one two three", 8), ["one two", "three"]);
        assert_eq!(folded("one two three", 7), ["one two", "three"]);
        assert_eq!(folded("abcdefgh ij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(folded("", 4), [""]);
        assert_eq!(folded("ab", 0), ["a", "b"]);
    }

    #[test]
    fn no_size_of_terminal_is_too_small() {
        let now = observation("a", 1);
        let frame = Frame::of(&now, &now, Duration::from_secs(1));
        for (width, height) in [(1, 1), (3, 40), (80, 2), (200, 5), (20, 20)] {
            drawn(&frame, width, height);
        }
        let away = drawn(&Frame::without_daemon("no daemon answers"), 40, 5);
        assert!(away.contains("no daemon answers"), "{away}");
    }
}
