const whole=this.closest('.course-slider'),value=+this.value;
const panels=[...whole.querySelector('.course-panels').children];
panels.forEach((panel,number)=>{panel.hidden=number!==value});
const caption=panels[value].getAttribute('aria-label');
whole.querySelector('output').textContent=caption;
this.setAttribute('aria-valuetext',caption)
